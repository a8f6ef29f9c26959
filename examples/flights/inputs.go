package flights

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/csv"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// month are the files that are part of the program.
//
//go:embed data/*.csv.gz
var month embed.FS

var inputNames = []string{"flights", "weather", "planes", "airlines"}

var monthFiles = map[string]string{
	"flights": "flights-2013-01.csv.gz", "weather": "weather-2013-01.csv.gz",
	"planes": "planes.csv.gz", "airlines": "airlines.csv.gz",
}

// input is a CSV file, unpacked.
type input struct {
	io.Reader
	io.Closer
}

// open opens an input by name.
func (o options) open(name string) (input, error) {
	var file io.ReadCloser
	var err error
	if path := o.inputs[name]; path == "" {
		file, err = month.Open("data/" + monthFiles[name])
	} else {
		file, err = os.Open(path)
	}
	if err != nil {
		return input{}, err
	}
	buffered := bufio.NewReader(file)
	if magic, _ := buffered.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return input{buffered, file}, nil
	}
	unpacked, err := gzip.NewReader(buffered)
	if err != nil {
		return input{}, errors.Join(fmt.Errorf("unpack: %w", err), file.Close())
	}
	return input{unpacked, file}, nil
}

// check reads the inputs through, before anything is made or removed: a file that is missing, cut or another one
// than was meant should not cost the state of an earlier run. It returns checksums of their contents.
func (o options) check() (map[string]string, error) {
	columns := map[string][]string{
		"flights": columnsOf[Flight](), "weather": columnsOf[Weather](),
		"planes": columnsOf[Plane](), "airlines": columnsOf[Airline](),
	}
	sums := map[string]string{}
	var errs []error
	for _, name := range inputNames {
		sum, err := o.checkOne(name, columns[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s %s: %w", name, o.inputs[name], err))
		}
		sums[name] = sum
	}
	return sums, errors.Join(errs...)
}

func (o options) checkOne(name string, columns []string) (string, error) {
	in, err := o.open(name)
	if err != nil {
		return "", short(err)
	}
	defer in.Close()
	sum := sha256.New()
	header, err := csv.NewReader(io.TeeReader(in, sum)).Read()
	switch {
	case errors.Is(err, io.EOF):
		return "", errors.New("the file is empty; its first line should name the columns")
	case err != nil:
		return "", fmt.Errorf("header row: %w", short(err))
	}
	var lacking []string
	for _, column := range columns {
		if !slices.Contains(header, column) {
			lacking = append(lacking, column)
		}
	}
	if len(lacking) > 0 {
		return "", fmt.Errorf("no column %s; its first line is %.100q", strings.Join(lacking, ", "), strings.Join(header, ","))
	}
	if _, err := io.Copy(sum, in); err != nil {
		return "", short(err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// short leaves out the path, which has been said.
func short(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrChecksum) {
		return fmt.Errorf("the compressed file is cut or damaged: %w", err)
	}
	return err
}

// columnsOf lists the columns that a row type wants.
func columnsOf[T any]() (names []string) {
	for _, field := range reflect.VisibleFields(reflect.TypeFor[T]()) {
		name, _, _ := strings.Cut(field.Tag.Get("csv"), ",")
		names = append(names, name)
	}
	return names
}

// unpack puts what is part of the program where the file transport can read it, and names it in inputs.
func (o *options) unpack(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"flights", "weather"} {
		if o.inputs[name] != "" {
			continue
		}
		content, err := month.ReadFile("data/" + monthFiles[name])
		if err != nil {
			return err
		}
		path := filepath.Join(dir, monthFiles[name])
		if err := replace(path, content); err != nil {
			return err
		}
		o.inputs[name] = path
	}
	return nil
}

// replace gives a file this content, at once or not at all.
func replace(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	next := path + ".new"
	if err := os.WriteFile(next, content, 0o644); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// readTable calls fn with the wanted columns of each row of a table that departures are enriched from.
func (o options) readTable(name string, columns []string, fn func(row []string)) error {
	fail := func(err error) error { return fmt.Errorf("--%s %s: %w", name, o.inputs[name], err) }
	in, err := o.open(name)
	if err != nil {
		return fail(short(err))
	}
	defer in.Close()
	rows := csv.NewReader(in)
	header, err := rows.Read()
	if err != nil {
		return fail(err)
	}
	for {
		row, err := rows.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fail(err)
		}
		var picked []string
		for _, column := range columns {
			picked = append(picked, row[slices.Index(header, column)])
		}
		fn(picked)
	}
}
