//go:build !wasip1

package kvasm

// A native build has no host: editors, `go vet` and tests of what needs none can compile the package.

const noHost = int64(Unsupported)

func kvGet(collection, key string, flags int32) ([]byte, int64) { return nil, noHost }
func kvSet(collection, key string, value []byte, format int32, options []byte) int64 {
	return noHost
}
func kvHas(collection, key string) int64                                        { return noHost }
func kvDelete(collection, key string, options []byte) int64                     { return noHost }
func kvList(collection string, list ListOptions, cursor []byte) ([]byte, int64) { return nil, noHost }
func kvIncrement(collection, key string, delta int64) (int64, int64)            { return 0, noHost }
func kvAdd(collection, key string, delta int64) int64                           { return noHost }
func kvGetMany(keys []byte) ([]byte, int64)                                     { return nil, noHost }
func kvCommit(batch []byte) ([]byte, int64)                                     { return nil, noHost }
func transactionBegin() int64                                                   { return noHost }
func transactionCommit() int64                                                  { return noHost }
func transactionDrop() int64                                                    { return noHost }
func timerSet(name string, flags int32, ms int64, payload []byte) int64         { return noHost }
func timerCancel(name string) int64                                             { return noHost }
func deadLetters(before string, limit int32) ([]byte, int64)                    { return nil, noHost }
func configGet(name string) ([]byte, int64)                                     { return nil, noHost }
func secretGet(name string) ([]byte, int64)                                     { return nil, noHost }
func httpFetch(request []byte) ([]byte, int64)                                  { return nil, noHost }
func errorMessage() string                                                      { return "there is no host in a native build" }
func input() []byte                                                             { return nil }
func outputWrite(bytes []byte) int64                                            { return noHost }
func contextRead() ([]byte, int64)                                              { return nil, noHost }
func logWrite(level int32, line string)                                         {}
func nowMs() int64                                                              { return noHost }
func randomFill(bytes []byte) int64                                             { return noHost }
