package framework

// Codec turns values into bytes and back. Its methods are safe for concurrent use.
type Codec[T any] interface {
	// Decode reads r.Value (and, where a format needs them, r's headers) into v, a zero value. It may keep
	// parts of r.Value: nobody changes them.
	Decode(r *Record, v *T) error
	// Append encodes v to the end of dst and returns the extended slice. It keeps neither, not in v either: their memory is
	// used again.
	Append(dst []byte, v *T) ([]byte, error)
}
