// Package services finds real services for test suites, or starts them: one of each kind for a test binary, shared by
// its tests.
//
// A suite asks for a service and gets its address. The first of these counts: the address in the environment
// (testenv.Given), a container where a Docker daemon answers, and for PostgreSQL the server's programs on the PATH.
// Where there is none of them the test ends with testenv.NotRun. What was used is reported.
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(services.Main(m)) }
//
//	func TestOrders(t *testing.T) {
//		db, err := sql.Open("pgx", services.Postgres(t))
//		...
//	}
//
// A service may be anybody's, given in the environment, and it is shared: tests make names of their own for tables,
// topics and queues.
//
// Tests that stop a service have one of their own: OwnPostgres, OwnMariaDB, OwnKafka, OwnKafkaCluster.
//
// A test binary that is killed leaves its containers behind; they carry the label org.testcontainers=true.
package services
