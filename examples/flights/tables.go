package flights

import (
	"compress/gzip"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/millrace/millrace/processors"
)

// readReference reads the tables that departures are enriched from.
func readReference(airlines, planes string) (ref Reference, err error) {
	names := map[string]Airline{}
	err = readTable(airlines, []string{"carrier", "name"}, func(row []string) {
		names[row[0]] = Airline{Carrier: row[0], Name: row[1]}
	})
	if err != nil {
		return ref, err
	}
	models := map[string]Plane{}
	err = readTable(planes, []string{"tailnum", "model"}, func(row []string) {
		plane := Plane{Tail: row[0]}
		if row[1] != "NA" {
			plane.Model = &row[1]
		}
		models[plane.Tail] = plane
	})
	return Reference{Airlines: processors.Table(names), Planes: processors.Table(models)}, err
}

// readTable calls fn with the wanted columns of each row of a CSV file.
func readTable(path string, columns []string, fn func(row []string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var in io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if in, err = gzip.NewReader(f); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	r := csv.NewReader(in)
	header, err := r.Read()
	if err != nil {
		return fmt.Errorf("%s: header: %w", path, err)
	}
	at := make([]int, len(columns))
	for i, want := range columns {
		at[i] = -1
		for k, name := range header {
			if name == want {
				at[i] = k
			}
		}
		if at[i] < 0 {
			return fmt.Errorf("%s: no column %q; there are %s", path, want, strings.Join(header, ", "))
		}
	}
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		picked := make([]string, len(at))
		for i, k := range at {
			picked[i] = row[k]
		}
		fn(picked)
	}
}
