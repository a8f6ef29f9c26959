package sql

import "testing"

func TestMySQLNames(t *testing.T) {
	for text, want := range map[string]string{
		"mysql://user:password@host:3306/database":          "user:password@tcp(host:3306)/database?parseTime=true",
		"mysql://user:p%40%3A%2F%25@host/database?tls=true": "user:p@:/%@tcp(host)/database?parseTime=true&tls=true",
		"mysql://host/database":                             "tcp(host)/database?parseTime=true",
		"mysql://user@host/database":                        "user:@tcp(host)/database?parseTime=true",
	} {
		if got, err := mysqlName(text); got != want || err != nil {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}
