package file

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// csvField is one field of a struct and its column.
type csvField struct {
	name     string
	index    []int // as reflect.Value.FieldByIndex wants it
	direct   int   // index[0] when there is one, else -1
	pointer  bool
	optional bool
	missing  []string
	set      func(v reflect.Value, text string) error
	text     func(dst []byte, v reflect.Value) ([]byte, error)
}

// csvFields lists the tagged fields of a struct.
func csvFields(t reflect.Type, options csvOptions) ([]csvField, error) {
	if t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is not a struct: rows are decoded into structs with csv tags", t)
	}
	var fields []csvField
	var faults []error
	names := make(map[string]string)
	for _, sf := range reflect.VisibleFields(t) {
		tag, tagged := sf.Tag.Lookup("csv")
		if !tagged || tag == "-" {
			continue
		}
		field, err := newCSVField(sf, tag, options)
		for i := 1; i < len(sf.Index) && err == nil; i++ {
			if t.FieldByIndex(sf.Index[:i]).Type.Kind() == reflect.Pointer {
				err = errors.New("it is in an embedded pointer: embed the struct itself")
			}
		}
		if err == nil && names[field.name] != "" {
			err = fmt.Errorf("column %q is also that of field %s", field.name, names[field.name])
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: field %s: %w", t, sf.Name, err))
			continue
		}
		names[field.name] = sf.Name
		fields = append(fields, field)
	}
	if len(fields) == 0 && len(faults) == 0 {
		faults = append(faults, fmt.Errorf(`%s has no field with a tag such as csv:"column"`, t))
	}
	return fields, errors.Join(faults...)
}

func newCSVField(sf reflect.StructField, tag string, options csvOptions) (csvField, error) {
	parts := strings.Split(tag, ",")
	f := csvField{name: parts[0], index: sf.Index, direct: -1}
	if len(sf.Index) == 1 {
		f.direct = sf.Index[0]
	}
	if f.name == "" {
		f.name = sf.Name
	}
	for _, option := range parts[1:] {
		switch {
		case option == "optional":
			f.optional = true
		case strings.HasPrefix(option, "na="):
			f.missing = append(f.missing, option[len("na="):])
		default:
			return f, fmt.Errorf("tag option %q is unknown: there are na=TEXT and optional", option)
		}
	}
	if !sf.IsExported() {
		return f, errors.New("it is not exported")
	}
	if f.missing == nil {
		f.missing = options.missing
	}
	t := sf.Type
	if f.pointer = t.Kind() == reflect.Pointer; f.pointer {
		if t = t.Elem(); f.missing == nil {
			f.missing = []string{""}
		}
	}
	f.set, f.text = csvKind(t)
	if f.set == nil {
		return f, fmt.Errorf("%s cannot be a column: use a string, number, boolean or an encoding.TextUnmarshaler", sf.Type)
	}
	return f, nil
}

func (f *csvField) of(value reflect.Value) reflect.Value {
	if f.direct >= 0 {
		return value.Field(f.direct)
	}
	return value.FieldByIndex(f.index)
}

func (f *csvField) decode(text []byte, value reflect.Value) error {
	s := view(text)
	if len(f.missing) > 0 && slices.Contains(f.missing, s) {
		return nil
	}
	v := f.of(value)
	if f.pointer {
		p := reflect.New(v.Type().Elem())
		v.Set(p)
		v = p.Elem()
	}
	return f.set(v, s)
}

func (f *csvField) append(dst []byte, value reflect.Value) ([]byte, error) {
	v := f.of(value)
	if f.pointer {
		if v.IsNil() {
			return appendQuoted(dst, f.missing[0]), nil
		}
		v = v.Elem()
	}
	return f.text(dst, v)
}

var (
	timeType        = reflect.TypeFor[time.Time]()
	unmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// csvKind returns how a type is read and written; nil when it is not.
func csvKind(t reflect.Type) (set func(reflect.Value, string) error, text func([]byte, reflect.Value) ([]byte, error)) {
	switch {
	case t == timeType:
		return setTime, appendTime
	case reflect.PointerTo(t).Implements(unmarshalerType):
		return setText, appendText
	}
	switch t.Kind() {
	case reflect.String:
		return func(v reflect.Value, s string) error { v.SetString(s); return nil },
			func(dst []byte, v reflect.Value) ([]byte, error) { return appendQuoted(dst, v.String()), nil }
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return setInt, func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendInt(dst, v.Int(), 10), nil }
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return setUint, func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendUint(dst, v.Uint(), 10), nil }
	case reflect.Float32, reflect.Float64:
		return setFloat, func(dst []byte, v reflect.Value) ([]byte, error) {
			return strconv.AppendFloat(dst, v.Float(), 'g', -1, v.Type().Bits()), nil
		}
	case reflect.Bool:
		return setBool, func(dst []byte, v reflect.Value) ([]byte, error) { return strconv.AppendBool(dst, v.Bool()), nil }
	}
	return nil, nil
}

func setInt(v reflect.Value, s string) error {
	n, ok := smallInt(s)
	if !ok {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			return fault(s, "a whole number", err)
		}
	}
	if v.OverflowInt(n) {
		return fmt.Errorf("%d does not fit %s", n, v.Type())
	}
	v.SetInt(n)
	return nil
}

// smallInt reads up to nine digits, which is what nearly all numbers are.
func smallInt(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 9 {
		return 0, false
	}
	n := int64(0)
	for i := range len(s) {
		d := s[i] - '0'
		if d > 9 {
			return 0, false
		}
		n = n*10 + int64(d)
	}
	return n, true
}

func setUint(v reflect.Value, s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return fault(s, "a whole number that is not negative", err)
	}
	if v.OverflowUint(n) {
		return fmt.Errorf("%d does not fit %s", n, v.Type())
	}
	v.SetUint(n)
	return nil
}

func setFloat(v reflect.Value, s string) error {
	n, err := strconv.ParseFloat(s, v.Type().Bits())
	if err != nil {
		return fault(s, "a number", err)
	}
	if math.IsInf(n, 0) || math.IsNaN(n) {
		return fault(s, "a finite number", strconv.ErrRange)
	}
	v.SetFloat(n)
	return nil
}

func setBool(v reflect.Value, s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fault(s, "true or false", err)
	}
	v.SetBool(b)
	return nil
}

func setTime(v reflect.Value, s string) error {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fault(s, "a time such as 2013-01-01T10:00:00Z", err)
	}
	*v.Addr().Interface().(*time.Time) = t
	return nil
}

func appendTime(dst []byte, v reflect.Value) ([]byte, error) {
	return v.Addr().Interface().(*time.Time).AppendText(dst)
}

func setText(v reflect.Value, s string) error {
	// A copy: an implementation may change or keep what it is given.
	if err := v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)); err != nil {
		return fault(s, v.Type().String(), err)
	}
	return nil
}

func appendText(dst []byte, v reflect.Value) ([]byte, error) {
	m, ok := v.Addr().Interface().(encoding.TextMarshaler)
	if !ok {
		return dst, fmt.Errorf("%s has no MarshalText", v.Type())
	}
	text, err := m.MarshalText()
	if err != nil {
		return dst, err
	}
	return appendQuoted(dst, string(text)), nil
}

// fault says what was expected; the number parsers' own errors say less.
func fault(s, expected string, err error) error {
	var number *strconv.NumError
	if errors.As(err, &number) {
		err = number.Err
	}
	return fmt.Errorf("%q is not %s: %w", strings.Clone(s), expected, err)
}

// appendQuoted appends a field, in quotes where it needs them.
func appendQuoted(dst []byte, s string) []byte {
	if !strings.ContainsAny(s, ",\"\r\n") {
		return append(dst, s...)
	}
	dst = append(dst, '"')
	for {
		i := strings.IndexByte(s, '"')
		if i < 0 {
			return append(append(dst, s...), '"')
		}
		dst = append(append(dst, s[:i]...), `""`...)
		s = s[i+1:]
	}
}
