//go:build wasip1

package kvasm

import "unsafe"

// The imports of kvasm_v1, as docs/abi.md describes them. A test compares them with the host's.

//go:wasmimport kvasm_v1 kv_get
func hostKvGet(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32, format int32, flags int32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 kv_set
func hostKvSet(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32, value unsafe.Pointer, valueLen uint32, format int32, options unsafe.Pointer) int64

//go:wasmimport kvasm_v1 kv_has
func hostKvHas(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32) int64

//go:wasmimport kvasm_v1 kv_delete
func hostKvDelete(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32, options unsafe.Pointer) int64

//go:wasmimport kvasm_v1 kv_list
func hostKvList(collection unsafe.Pointer, collectionLen uint32, options unsafe.Pointer, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 kv_increment
func hostKvIncrement(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32, delta int64, result unsafe.Pointer) int64

//go:wasmimport kvasm_v1 kv_add
func hostKvAdd(collection unsafe.Pointer, collectionLen uint32, key unsafe.Pointer, keyLen uint32, delta int64) int64

//go:wasmimport kvasm_v1 kv_get_many
func hostKvGetMany(keys unsafe.Pointer, keysLen uint32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 kv_commit
func hostKvCommit(batch unsafe.Pointer, batchLen uint32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 transaction_begin
func hostTransactionBegin() int64

//go:wasmimport kvasm_v1 transaction_commit
func hostTransactionCommit() int64

//go:wasmimport kvasm_v1 transaction_drop
func hostTransactionDrop() int64

//go:wasmimport kvasm_v1 timer_set
func hostTimerSet(name unsafe.Pointer, nameLen uint32, flags int32, ms int64, payload unsafe.Pointer, payloadLen uint32) int64

//go:wasmimport kvasm_v1 timer_cancel
func hostTimerCancel(name unsafe.Pointer, nameLen uint32) int64

//go:wasmimport kvasm_v1 dead_letters
func hostDeadLetters(before unsafe.Pointer, beforeLen uint32, limit int32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 dead_letter_replay
func hostDeadLetterReplay(id unsafe.Pointer, idLen uint32) int64

//go:wasmimport kvasm_v1 config_get
func hostConfigGet(name unsafe.Pointer, nameLen uint32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 secret_get
func hostSecretGet(name unsafe.Pointer, nameLen uint32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 http_fetch
func hostHttpFetch(request unsafe.Pointer, requestLen uint32, out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 result_read
func hostResultRead(offset uint32, out unsafe.Pointer, length uint32) int64

//go:wasmimport kvasm_v1 error_message
func hostErrorMessage(out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 input_len
func hostInputLen() int64

//go:wasmimport kvasm_v1 input_read
func hostInputRead(offset uint32, out unsafe.Pointer, length uint32) int64

//go:wasmimport kvasm_v1 output_write
func hostOutputWrite(bytes unsafe.Pointer, length uint32) int64

//go:wasmimport kvasm_v1 context
func hostContext(out unsafe.Pointer, cap uint32) int64

//go:wasmimport kvasm_v1 log
func hostLog(level int32, text unsafe.Pointer, length uint32) int64

//go:wasmimport kvasm_v1 now_ms
func hostNowMs() int64

//go:wasmimport kvasm_v1 random_fill
func hostRandomFill(out unsafe.Pointer, length uint32) int64

func text(s string) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.StringData(s)), uint32(len(s))
}

func raw(b []byte) (unsafe.Pointer, uint32) {
	return unsafe.Pointer(unsafe.SliceData(b)), uint32(len(b))
}

// result copies a result that was kept because its buffer had no room.
func result(length int64) ([]byte, int64) {
	if length < 0 {
		return nil, length
	}
	out := make([]byte, length)
	p, n := raw(out)
	hostResultRead(0, p, n)
	return out, length
}

func kvGet(collection, key string, flags int32) ([]byte, int64) {
	c, cn := text(collection)
	k, kn := text(key)
	return result(hostKvGet(c, cn, k, kn, formatBytes, flags, nil, 0))
}

func kvSet(collection, key string, value []byte, format int32, options []byte) int64 {
	c, cn := text(collection)
	k, kn := text(key)
	v, vn := raw(value)
	o, _ := raw(options)
	return hostKvSet(c, cn, k, kn, v, vn, format, o)
}

func kvHas(collection, key string) int64 {
	c, cn := text(collection)
	k, kn := text(key)
	return hostKvHas(c, cn, k, kn)
}

func kvDelete(collection, key string, options []byte) int64 {
	c, cn := text(collection)
	k, kn := text(key)
	o, _ := raw(options)
	return hostKvDelete(c, cn, k, kn, o)
}

func kvList(collection string, list ListOptions, cursor []byte) ([]byte, int64) {
	c, cn := text(collection)
	options := make([]byte, 0, 52)
	var mask uint32
	options = putU32(options, 52)
	options = putU32(options, 0)
	span := func(bit uint32, p unsafe.Pointer, n uint32) {
		if n > 0 {
			mask |= bit
		}
		options = putU32(options, uint32(uintptr(p)))
		options = putU32(options, n)
	}
	p, n := text(list.Prefix)
	span(1, p, n)
	p, n = text(list.Start)
	span(2, p, n)
	p, n = text(list.End)
	span(4, p, n)
	p, n = raw(cursor)
	span(8, p, n)
	if list.PageSize > 0 {
		mask |= 16
	}
	options = putU32(options, list.PageSize)
	options = putBool(options, list.Reverse)
	options = putBool(options, list.Values)
	mask |= 32 | 64
	copy(options[4:], putU32(nil, mask))
	o, _ := raw(options)
	return result(hostKvList(c, cn, o, nil, 0))
}

func kvIncrement(collection, key string, delta int64) (int64, int64) {
	c, cn := text(collection)
	k, kn := text(key)
	var sum int64
	status := hostKvIncrement(c, cn, k, kn, delta, unsafe.Pointer(&sum))
	return sum, status
}

func kvAdd(collection, key string, delta int64) int64 {
	c, cn := text(collection)
	k, kn := text(key)
	return hostKvAdd(c, cn, k, kn, delta)
}

func kvGetMany(keys []byte) ([]byte, int64) {
	p, n := raw(keys)
	return result(hostKvGetMany(p, n, nil, 0))
}

func kvCommit(batch []byte) ([]byte, int64) {
	p, n := raw(batch)
	return result(hostKvCommit(p, n, nil, 0))
}

func transactionBegin() int64  { return hostTransactionBegin() }
func transactionCommit() int64 { return hostTransactionCommit() }
func transactionDrop() int64   { return hostTransactionDrop() }

func timerSet(name string, flags int32, ms int64, payload []byte) int64 {
	t, tn := text(name)
	p, pn := raw(payload)
	return hostTimerSet(t, tn, flags, ms, p, pn)
}

func timerCancel(name string) int64 {
	return hostTimerCancel(text(name))
}

func deadLetters(before string, limit int32) ([]byte, int64) {
	b, bn := text(before)
	return result(hostDeadLetters(b, bn, limit, nil, 0))
}

func configGet(name string) ([]byte, int64) {
	n, nn := text(name)
	return result(hostConfigGet(n, nn, nil, 0))
}

func secretGet(name string) ([]byte, int64) {
	n, nn := text(name)
	return result(hostSecretGet(n, nn, nil, 0))
}

func httpFetch(request []byte) ([]byte, int64) {
	r, rn := raw(request)
	return result(hostHttpFetch(r, rn, nil, 0))
}

// errorMessage reads into a buffer: a result that is kept would replace the one before.
func errorMessage() string {
	out := make([]byte, 4096)
	length := hostErrorMessage(raw(out))
	if length < 0 || length > int64(len(out)) {
		return ""
	}
	return string(out[:length])
}

func input() []byte {
	out := make([]byte, hostInputLen())
	p, n := raw(out)
	hostInputRead(0, p, n)
	return out
}

func outputWrite(bytes []byte) int64 { return hostOutputWrite(raw(bytes)) }

func contextRead() ([]byte, int64) { return result(hostContext(nil, 0)) }

func logWrite(level int32, line string) {
	p, n := text(line)
	hostLog(level, p, n)
}

func nowMs() int64 { return hostNowMs() }

func randomFill(bytes []byte) int64 { return hostRandomFill(raw(bytes)) }
