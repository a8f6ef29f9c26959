// Package watermark computes watermarks: promises that no event with an earlier time will come.
//
// Times are nanoseconds since the Unix epoch. A watermark only rises. Min says that nothing is known yet,
// Max that the stream has ended.
package watermark
