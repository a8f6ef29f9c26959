// Package transporttest is the conformance suite of framework.Transport: what the engine relies on,
// as tests. A transport's own test is a fixture and one call:
//
//	func TestTransport(t *testing.T) {
//		transporttest.Run(t, func(t testing.TB) transporttest.Fixture {
//			transport, err := memory.New(memory.Config{})
//			if err != nil {
//				t.Fatal(err)
//			}
//			return transporttest.Fixture{Transport: transport}
//		}, transporttest.Features{})
//	}
//
// What a transport cannot do is said in Features, and the tests that need it are skipped by name, so
// that the output lists what is missing.
//
// # Limits
//
// That something does not happen (a batch too many) is
// looked for during 20 ms: a transport that is slower than that may pass where it should not.
package transporttest
