package flights

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/millrace/millrace/microstore"
)

// checkOut finds what would go wrong with --out only later, or would go well and be regretted.
func (o options) checkOut() error {
	if o.out == "" {
		return nil
	}
	fail := func(format string, args ...any) error {
		return fmt.Errorf("--out %s: %w", o.out, fmt.Errorf(format, args...))
	}
	if o.out == "-" {
		return fail("standard output is for the table; name a file")
	}
	if strings.HasSuffix(o.out, ".gz") {
		return fail("it is not compressed; choose a name without .gz")
	}
	for _, part := range []string{storeName, feedName, inputName, markName} {
		if within(filepath.Join(o.state, part), o.out) {
			return fail("it lies in the state directory; choose another place")
		}
	}
	info, err := os.Stat(o.out)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return fail("it is not a regular file; choose another name")
	case err == nil:
		for _, name := range inputNames {
			if other, err := os.Stat(o.inputs[name]); err == nil && os.SameFile(info, other) {
				return fail("it is also --%s, which it would overwrite; choose another name", name)
			}
		}
	case !errors.Is(err, os.ErrNotExist):
		return fail("%w", short(err))
	}
	file, err := os.OpenFile(o.out, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fail("%w; choose another, in a folder that is there", short(err))
	}
	return file.Close()
}

// within tells whether path is dir or lies in it.
func within(dir, path string) bool {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false
	}
	path, err = filepath.Abs(path)
	return err == nil && (path == dir || strings.HasPrefix(path, dir+string(filepath.Separator)))
}

// goesOn tells whether a file can be written on from where the run has come to. It cannot when it was deleted
// meanwhile, or another one was named.
func goesOn(store *microstore.Store, path string) (bool, error) {
	outbox, err := store.Outbox(OutTopic)
	if err != nil {
		return false, err
	}
	position, known, err := outbox.Position()
	if err != nil || !known {
		return err == nil, err
	}
	info, err := os.Stat(path)
	return err == nil && info.Size() >= position, err
}

// completeFile makes sure that the file holds the result and nothing else. It does not when the run, or part of it,
// happened without --out or with another one, or when the file was changed since.
func completeFile(path string, pairs [][]byte) error {
	content, err := os.ReadFile(path)
	if err == nil && sameLines(content, pairs) {
		return nil
	}
	var whole []byte
	for _, pair := range pairs {
		whole = append(append(whole, pair...), '\n')
	}
	if err := replace(path, whole); err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	return nil
}

// sameLines compares in any order: the order between the keys is the order of commits, and file and topic have one
// each.
func sameLines(content []byte, pairs [][]byte) bool {
	rest, complete := bytes.CutSuffix(content, []byte("\n"))
	if len(pairs) == 0 || !complete {
		return len(pairs) == 0 && len(content) == 0
	}
	lines, want := bytes.Split(rest, []byte("\n")), slices.Clone(pairs)
	slices.SortFunc(lines, bytes.Compare)
	slices.SortFunc(want, bytes.Compare)
	return slices.EqualFunc(lines, want, bytes.Equal)
}
