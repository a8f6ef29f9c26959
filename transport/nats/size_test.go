package nats

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/millrace/millrace/framework"
)

// What is said to fit by the quick reckoning fits.
func TestSizeAtMost(t *testing.T) {
	text := rapid.StringN(0, 40, -1)
	rapid.Check(t, func(t *rapid.T) {
		r := framework.Record{
			ID: text.Draw(t, "id"), Type: text.Draw(t, "type"), Source: text.Draw(t, "source"), Key: text.Draw(t, "key"),
			Causes: text.Draw(t, "causes"), Step: text.Draw(t, "step"), Value: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "value"),
			Time: time.Unix(0, rapid.Int64().Draw(t, "time")), Watermark: rapid.Bool().Draw(t, "watermark"),
			Metadata: rapid.MapOfN(text, text, 0, 40).Draw(t, "metadata"),
		}
		if most, size := atMost(&r), sizeOf(&r); most < size {
			t.Fatalf("%d bytes, and at most %d: %+v", size, most, r)
		}
	})
}
