// Command doccheck builds and vets the programs that the documentation shows, and looks for the tests that it names and
// the files that it links to.
//
//	go run ./internal/doccheck README.md docs
//
// It takes files and directories, and of these every Markdown file. A program is a fenced block marked `go` that starts
// with `package main`; other blocks are fragments and are passed over. The programs make up a module of their own beside
// this one, so they are checked against the code as it is, and may import what a reader's program may: not internal
// packages. A test is named by a code span, `TestOrders`, and has to be in some package below the working directory.
// Faults are told by the file and line of the document. Nothing is written to this module.
package main
