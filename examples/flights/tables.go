package flights

import "github.com/millrace/millrace/processors"

// Reference are the tables that departures are enriched from.
type Reference struct {
	Airlines processors.Lookup[string, Airline]
	Planes   processors.Lookup[string, Plane]
}

// readReference reads the tables. They are small, and a row of them that cannot be read is an error, not a fault:
// nothing could tell which departures it was for.
func readReference(o options) (Reference, error) {
	names := map[string]Airline{}
	err := o.readTable("airlines", columnsOf[Airline](), func(row []string) {
		names[row[0]] = Airline{Carrier: row[0], Name: row[1]}
	})
	if err != nil {
		return Reference{}, err
	}
	models := map[string]Plane{}
	err = o.readTable("planes", columnsOf[Plane](), func(row []string) {
		plane := Plane{Tail: row[0]}
		if row[1] != "NA" {
			plane.Model = &row[1]
		}
		models[plane.Tail] = plane
	})
	return Reference{Airlines: processors.Table(names), Planes: processors.Table(models)}, err
}
