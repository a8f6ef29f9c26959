package file_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace/millrace/framework"
	"github.com/millrace/millrace/transport/file"
)

type common struct {
	Year int16 `csv:"year"`
}

type flight struct {
	common
	Carrier  string     `csv:"carrier"`
	Departed *int       `csv:"dep_time,na=NA"`
	Tail     string     `csv:"tailnum,na=NA"`
	Gate     string     `csv:"gate,optional"`
	Distance float64    `csv:"distance"`
	Late     bool       `csv:"late"`
	Hour     time.Time  `csv:"time_hour"`
	Address  netip.Addr `csv:"address,na="`
	Seats    *uint8     `csv:"seats"`
	Other    func()
}

func row(header, value string) *framework.Record {
	return &framework.Record{Value: []byte(value), Line: 7, Schema: map[string]string{
		file.SchemaHeader: header, file.SchemaFile: "flights.csv",
	}}
}

const header = "time_hour,late,year,carrier,dep_time,unused,tailnum,distance,address,seats"

func TestCSVDecode(t *testing.T) {
	codec := file.CSV[flight]()
	var got flight
	err := codec.Decode(row(header, `2013-01-01T10:00:00Z,true,2013,"A ""1"", x",517,?,NA,1400.5,::1,`), &got)
	must(t, err)
	departed := 517
	want := flight{
		common: common{2013}, Carrier: `A "1", x`, Departed: &departed, Distance: 1400.5, Late: true,
		Hour: time.Date(2013, 1, 1, 10, 0, 0, 0, time.UTC), Address: netip.MustParseAddr("::1"),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}

	encoded, err := codec.Append(nil, &want)
	must(t, err)
	var again flight
	must(t, codec.Decode(&framework.Record{Value: encoded}, &again))
	if !reflect.DeepEqual(again, want) {
		t.Errorf("%s came back as\n%+v\nit was\n%+v", encoded, again, want)
	}
}

func TestCSVErrors(t *testing.T) {
	var f flight
	codec := file.CSV[flight]()
	for _, test := range []struct {
		header, row, want string
		class             framework.Class
	}{
		{header, `2013-01-01T10:00:00Z,true,x,A,1,,N,1,::1,`, `flights.csv:7: column "year": "x" is not a whole number`, framework.ClassPermanent},
		{header, `2013-01-01T10:00:00Z,true,99999,A,1,,N,1,::1,`, `99999 does not fit int16`, framework.ClassPermanent},
		{header, `yesterday,true,1,A,1,,N,1,::1,`, `"yesterday" is not a time`, framework.ClassPermanent},
		{header, `2013-01-01T10:00:00Z,true,1`, "wrong number of columns", framework.ClassPermanent},
		{header, `2013-01-01T10:00:00Z,true,1,A,1,,N,1,::1,,`, "wrong number of columns", framework.ClassPermanent},
		{header, `2013-01-01T10:00:00Z,true,1,"A`, "misplaced quote", framework.ClassPermanent},
		{"year,carrier", "1,A", `flights.csv has no column ["dep_time" "tailnum" "distance" "late" "time_hour" "address" "seats"]`, framework.ClassFatal},
	} {
		err := codec.Decode(row(test.header, test.row), &f)
		check(t, test.row, err, test.want)
		if framework.ClassOf(err) != test.class {
			t.Errorf("%s: class %s, expected %s", test.row, framework.ClassOf(err), test.class)
		}
	}
	check(t, "no struct", file.CSV[int]().Decode(row("x", "1"), new(int)), "int is not a struct")
	type bad struct {
		A []int  `csv:"a"`
		B string `csv:"b,nope"`
		c string `csv:"c"`
		D string `csv:"d"`
		E string `csv:"d"`
	}
	err := file.CSV[bad]().Decode(row("x", "1"), &bad{c: ""})
	for _, want := range []string{"field A: []int cannot", `option "nope" is unknown`, "field c: it is not exported", `column "d" is also`} {
		check(t, "a bad struct", err, want)
	}
}

func TestCSVMissingEverywhere(t *testing.T) {
	type weather struct {
		Gust *float64 `csv:"wind_gust"`
		Rain float64  `csv:"precip"`
	}
	var w weather
	must(t, file.CSV[weather](file.NA("NA", "")).Decode(row("wind_gust,precip", "NA,"), &w))
	if w.Gust != nil || w.Rain != 0 {
		t.Errorf("%+v", w)
	}
}

func TestCSVOfFile(t *testing.T) {
	transport := open(t, file.Config{Inputs: map[string]file.Input{
		"in":   {Path: write(t, "a.tsv", "name\tyear\n\"x\ty\"\t1\n")},
		"bare": {Path: write(t, "b.csv", "z,3\n"), Columns: []string{"name", "year"}},
	}})
	type line struct {
		Year int    `csv:"year"`
		Name string `csv:"name"`
	}
	codec := file.CSV[line]()
	for topic, want := range map[string]line{"in": {1, "x\ty"}, "bare": {3, "z"}} {
		records, err := readAll(t, transport, topic, 0)
		must(t, err)
		var got line
		must(t, codec.Decode(&records[0], &got))
		if got != want {
			t.Errorf("%+v, expected %+v", got, want)
		}
	}
}

func ExampleCSV() {
	type Airline struct {
		Carrier string `csv:"carrier"`
		Name    string `csv:"name"`
	}
	record := framework.Record{
		Value:  []byte(`HA,"Hawaiian, Inc."`),
		Schema: map[string]string{file.SchemaHeader: "carrier,name"},
	}
	var a Airline
	if err := file.CSV[Airline]().Decode(&record, &a); err != nil {
		fmt.Println(err)
	}
	fmt.Println(a.Carrier, "is", a.Name)
	// Output: HA is Hawaiian, Inc.
}

// january is a file like that of the flights of one month: 27,000 rows of 19 columns.
func january() string {
	var b strings.Builder
	b.WriteString("year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour\n")
	for i := range 27_000 {
		fmt.Fprintf(&b, "2013,1,%d,%d,515,%d,830,819,11,UA,%d,N%05d,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z\n",
			i/900+1, 500+i%1000, i%60, i%6000, i%3000)
	}
	return b.String()
}

type departure struct {
	Year    int       `csv:"year"`
	Month   int       `csv:"month"`
	Day     int       `csv:"day"`
	Left    *int      `csv:"dep_time,na=NA"`
	Sched   int       `csv:"sched_dep_time"`
	Delay   *int      `csv:"dep_delay,na=NA"`
	Carrier string    `csv:"carrier"`
	Flight  int       `csv:"flight"`
	Tail    string    `csv:"tailnum,na=NA"`
	Origin  string    `csv:"origin"`
	Dest    string    `csv:"dest"`
	Hour    time.Time `csv:"time_hour"`
}

// benchmarkRead reads a month, and decodes it.
func benchmarkRead(b *testing.B, name string, rows int, decode bool) {
	transport := open(b, file.Config{Inputs: map[string]file.Input{"in": {Path: write(b, name, january())}}})
	codec := file.CSV[departure]()
	b.ReportAllocs()
	for b.Loop() {
		subscriber, _ := transport.Subscriber(framework.SubscriberConfig{BatchEvents: 1000, BatchBytes: 1 << 20, InFlight: 2})
		messages, err := subscriber.Subscribe(b.Context(), "in")
		if err != nil {
			b.Fatal(err)
		}
		read := 0
		for ended := false; !ended; {
			batch := receive(b, messages)
			read += len(batch.Records)
			ended = batch.End
			for i := range batch.Records {
				var d departure
				if !decode {
					break
				}
				if err := codec.Decode(&batch.Records[i], &d); err != nil {
					b.Fatal(err)
				}
			}
		}
		_ = subscriber.Close()
		if read != rows {
			b.Fatal(read)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/27_000, "ns/row")
}

func BenchmarkReadCSV(b *testing.B)        { benchmarkRead(b, "a.csv", 27_000, false) }
func BenchmarkReadCSVDecode(b *testing.B)  { benchmarkRead(b, "a.csv", 27_000, true) }
func BenchmarkReadGzipDecode(b *testing.B) { benchmarkRead(b, "a.csv.gz", 27_000, true) }
func BenchmarkReadJSONLines(b *testing.B)  { benchmarkRead(b, "a.jsonl", 27_001, false) }

func BenchmarkSink(b *testing.B) {
	p := publisher(b, file.Output{Path: b.TempDir() + "/out.jsonl"}, nil)
	records := make([]framework.Record, 500)
	for i := range records {
		records[i].Value = []byte(`{"tail":"N12345","reason":"knock-on","minutes":73}`)
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += len(records) {
		if err := p.Publish(b.Context(), "out", records); err != nil {
			b.Fatal(err)
		}
	}
}
