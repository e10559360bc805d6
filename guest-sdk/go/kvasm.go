// Package kvasm is for Kvasm plugins in Go.
//
// A plugin is a main package that exports functions, and a file kvasm.json that says what each of
// them is:
//
//	//go:wasmexport hello
//	func hello() int32 {
//		return kvasm.Function(func(input []byte) ([]byte, error) {
//			return []byte("Hello, " + string(input)), nil
//		})
//	}
//
//	func main() {}
//
// It is built by `kvasm build`, or with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared. Each
// call runs in a fresh instance: variables last for one call, entries stay.
package kvasm

import (
	"errors"
	"runtime/debug"
	"strconv"
	"time"
)

const (
	formatJSON  = 0
	formatBytes = 1

	getWithHeader = 1

	exitOK        = 0
	exitFailed    = 1
	exitPermanent = 2
	exitRefused   = 3
	exitLater     = 4
)

// Status is a reason for which the host rejects a call: a negative number.
type Status int64

// The statuses, as docs/abi.md describes them.
const (
	NotFound    Status = -1
	Conflict    Status = -2
	Denied      Status = -3
	Invalid     Status = -4
	TooLarge    Status = -5
	Quota       Status = -6
	RateLimited Status = -7
	Type        Status = -8
	Unavailable Status = -9
	Internal    Status = -10
	Unsupported Status = -11
	Remote      Status = -12
)

// Error is a host call that failed.
type Error struct {
	Status  Status
	Message string
}

func (e *Error) Error() string { return e.Message }

// Is reports whether err, or an error that it wraps, is a host call that failed with this status.
func Is(err error, status Status) bool {
	var failed *Error
	return errors.As(err, &failed) && failed.Status == status
}

// check returns the error of a status, or nil.
func check(status int64) error {
	if status >= 0 {
		return nil
	}
	message := errorMessage()
	if message == "" {
		message = "status " + strconv.FormatInt(status, 10)
	}
	return &Error{Status: Status(status), Message: message}
}

var errMalformed = errors.New("malformed answer of the host")

type exitError struct {
	code int32
	text string
}

func (e *exitError) Error() string { return e.text }

// Refused returns an error that rejects the input: the caller's fault, and the message is for it.
func Refused(reason string) error { return &exitError{exitRefused, reason} }

// Permanent returns an error that the same input would cause again: a delivery is not retried.
func Permanent(err error) error { return &exitError{exitPermanent, err.Error()} }

// Later returns an error that runs a delivery again after a wait, from a second to 30 days. It is
// not counted as a failure.
func Later(wait time.Duration) error {
	return &exitError{exitLater, strconv.FormatInt(wait.Milliseconds(), 10)}
}

// Function runs an exported function: it passes the call's input and writes the output. An error
// fails the call, with its message as the output.
func Function(run func(input []byte) ([]byte, error)) int32 {
	return guard(func() ([]byte, error) { return run(input()) })
}

// guard turns an error and a panic into an exit code.
func guard(run func() ([]byte, error)) (code int32) {
	defer func() {
		if panicked := recover(); panicked != nil {
			text := "panicked: " + panicText(panicked)
			logWrite(levelError, text+"\n"+string(debug.Stack()))
			outputWrite([]byte(text))
			code = exitFailed
		}
	}()
	output, err := run()
	if err == nil {
		if err = check(outputWrite(output)); err == nil {
			return exitOK
		}
	}
	outputWrite([]byte(err.Error()))
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	return exitFailed
}

const (
	levelError = 1
	levelWarn  = 2
	levelInfo  = 3
	levelDebug = 4
)

// LogError, LogWarn, LogInfo and LogDebug write a line to the plugin's log.
func LogError(line string) { logWrite(levelError, line) }
func LogWarn(line string)  { logWrite(levelWarn, line) }
func LogInfo(line string)  { logWrite(levelInfo, line) }
func LogDebug(line string) { logWrite(levelDebug, line) }

// panicText is short of fmt, which would add a megabyte to each plugin.
func panicText(panicked any) string {
	switch value := panicked.(type) {
	case error:
		return value.Error()
	case string:
		return value
	case interface{ String() string }:
		return value.String()
	}
	return "a value that is neither an error nor a text"
}

// Now returns the host's time.
func Now() time.Time { return time.UnixMilli(nowMs()) }

// Random fills bytes with secure random ones, at most 65,536.
func Random(bytes []byte) error { return check(randomFill(bytes)) }

// Config returns a configuration value of the app. [NotFound]: it is not set.
func Config(name string) (string, error) {
	value, status := configGet(name)
	return string(value), check(status)
}

// Secret returns a secret of the app, which the plugin must declare and the app grant.
func Secret(name string) ([]byte, error) {
	value, status := secretGet(name)
	return value, check(status)
}

// CallContext says what runs, and for whom.
type CallContext struct {
	App, Function, RequestID, Caller string
	Transaction                      bool
}

// Context returns the context of the call.
func Context() (CallContext, error) {
	bytes, status := contextRead()
	if err := check(status); err != nil {
		return CallContext{}, err
	}
	members, ok := parseHead(bytes)
	if !ok {
		return CallContext{}, errMalformed
	}
	return CallContext{
		App:         members.text("app"),
		Function:    members.text("function"),
		RequestID:   members.text("request_id"),
		Caller:      members.text("caller"),
		Transaction: members.raw("transaction") == "true",
	}, nil
}

// DeadLetters returns the app's dead letters as JSON, newest first, after the one with the id
// `before`, if that is not empty.
func DeadLetters(before string, limit int32) ([]byte, error) {
	letters, status := deadLetters(before, limit)
	return letters, check(status)
}
