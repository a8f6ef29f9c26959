package framework

import (
	"strings"
	"testing"
	"time"
)

func TestJSONAppends(t *testing.T) {
	type thing struct {
		Name string        `json:"name"`
		For  time.Duration `json:"for"`
		Tags map[string]int
	}
	codec := JSON[thing]()
	for _, room := range []int{0, 3, 1000} {
		dst := append(make([]byte, 0, room), "abc"...)
		got, err := codec.Append(dst, &thing{"n", 5, map[string]int{"b": 2, "a": 1}})
		if want := `abc{"name":"n","for":5,"Tags":{"a":1,"b":2}}`; err != nil || string(got) != want {
			t.Errorf("room %d: %q, %v; want %q", room, got, err, want)
		}
	}
	var back thing
	if err := codec.Decode(&Record{Value: []byte(`{"NAME":"x","for":7}`)}, &back); err != nil || back.Name != "x" || back.For != 7 {
		t.Errorf("%+v, %v", back, err)
	}
	for _, bad := range []string{`{"name":"a","name":"b"}`, "{\"name\":\"\xff\"}", `{"name":"a"} x`, `{`, ``} {
		if err := codec.Decode(&Record{Value: []byte(bad)}, new(thing)); err == nil {
			t.Errorf("%q was decoded", bad)
		}
	}
	if _, err := JSON[func()]().Append(nil, new(func())); err == nil || strings.Contains(err.Error(), "panic") {
		t.Errorf("a function was encoded: %v", err)
	}
}
