// What the package for Go offers beside the example: timers, schedules, settings, requests to other
// servers, transactions, and statuses. The folders features-* do the same in each language.
package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"kvasm"
)

const (
	accounts = kvasm.Collection("accounts")
	orders   = kvasm.Collection("orders")
	sum      = kvasm.Collection("sum")
)

// noop does nothing: what a call costs.
//
//go:wasmexport noop
func noop() int32 {
	return kvasm.Function(func([]byte) ([]byte, error) { return nil, nil })
}

// settings returns the configuration value and the secret.
//
//go:wasmexport settings
func settings() int32 {
	return kvasm.Function(func([]byte) ([]byte, error) {
		greeting, err := kvasm.Config("greeting")
		if kvasm.Is(err, kvasm.NotFound) {
			greeting, err = "unset", nil
		}
		if err != nil {
			return nil, err
		}
		token, err := kvasm.Secret("token")
		if kvasm.Is(err, kvasm.NotFound) {
			token, err = []byte("unset"), nil
		}
		return []byte(greeting + " " + string(token)), err
	})
}

// fetch sends a request: the input is "METHOD URL\nbody".
//
//go:wasmexport fetch
func fetch() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		line, body, _ := strings.Cut(string(input), "\n")
		method, url, _ := strings.Cut(line, " ")
		response, err := kvasm.Fetch(kvasm.Outbound{
			Method:  method,
			URL:     url,
			Headers: [][2]string{{"x-quoted", "a\"b"}, {"x-other", "c"}},
			Body:    []byte(body),
		})
		if err != nil {
			return []byte("no answer: " + err.Error()), nil
		}
		header := response.Header("x-a")
		if header == "" {
			header = "none"
		}
		return []byte(strconv.Itoa(response.Status) + "|" + header + "|" + string(response.Body)), nil
	})
}

// remind sets a timer: the input is "name=ms".
//
//go:wasmexport remind
func remind() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		name, text, _ := strings.Cut(string(input), "=")
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, kvasm.Refused("not a number")
		}
		return nil, kvasm.TimerAfter(name, time.Duration(ms)*time.Millisecond, []byte(name))
	})
}

// forget cancels a timer.
//
//go:wasmexport forget
func forget() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		wasSet, err := kvasm.TimerCancel(string(input))
		if wasSet {
			return []byte("1"), err
		}
		return []byte("0"), err
	})
}

//go:wasmexport on_timer
func onTimer() int32 {
	return kvasm.Deliver(func(timer *kvasm.Delivery) error {
		if err := kvasm.Collection("fired").Add(timer.Timer, 1); err != nil {
			return err
		}
		// What the run has written is discarded.
		if string(timer.Body) == "later" && kvasm.Now().Before(timer.At().Add(time.Second)) {
			return kvasm.Later(time.Second)
		}
		return kvasm.Collection("payloads").Set(timer.Timer, timer.Body)
	})
}

//go:wasmexport nightly
func nightly() int32 {
	return kvasm.Deliver(func(run *kvasm.Delivery) error {
		return kvasm.Collection("ticks").Add(run.Kind, 1)
	})
}

//go:wasmexport watch
func watch() int32 {
	return kvasm.Deliver(func(change *kvasm.Delivery) error {
		if err := kvasm.Collection("seen").Add(change.Key, 1); err != nil {
			return err
		}
		if string(change.Body) == `"poison"` {
			return kvasm.Permanent(errors.New("poisoned"))
		}
		return nil
	})
}

func balance(account string) (int, error) {
	text, err := accounts.Get(account)
	if kvasm.Is(err, kvasm.NotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(text))
}

var errShort = kvasm.Refused("no coins")

// move moves a coin. The first account is written before the check: a failure has to discard it.
func move(from, to string) error {
	left, err := balance(from)
	if err != nil {
		return err
	}
	right, err := balance(to)
	if err != nil {
		return err
	}
	if err = accounts.SetJSON(from, left-1); err != nil {
		return err
	}
	if left < 1 {
		return errShort
	}
	return accounts.SetJSON(to, right+1)
}

// pay moves a coin: the input is "from=to". kvasm.json makes it a transaction.
//
//go:wasmexport pay
func pay() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		from, to, _ := strings.Cut(string(input), "=")
		return nil, move(from, to)
	})
}

// pay_part does the same in a part of the call: the attempt is counted, whatever becomes of it.
//
//go:wasmexport pay_part
func payPart() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		from, to, _ := strings.Cut(string(input), "=")
		if err := kvasm.Collection("attempts").Add(from, 1); err != nil {
			return nil, err
		}
		err := kvasm.Transaction(func() error { return move(from, to) })
		if err == errShort {
			return []byte("no coins"), nil
		}
		return nil, err
	})
}

// bump adds blindly in a transaction.
//
//go:wasmexport bump
func bump() int32 {
	return kvasm.Function(func([]byte) ([]byte, error) {
		if err := sum.Add("n", 1); err != nil {
			return nil, err
		}
		return nil, sum.Add("n", 1)
	})
}

// order sets a new order and a timer in one batch.
//
//go:wasmexport order
func order() int32 {
	return kvasm.Function(func(input []byte) ([]byte, error) {
		var batch kvasm.Batch
		key := string(input)
		batch.Check(orders, key, 0)
		if err := batch.SetJSON(orders, key, 1, 0); err != nil {
			return nil, err
		}
		batch.Increment(sum, "orders", 1)
		batch.TimerAfter(key, 0, []byte("ordered"))
		batch.TimerCancel("none")
		applied, err := batch.Commit()
		if kvasm.Is(err, kvasm.Conflict) {
			return nil, kvasm.Refused("a conflict")
		}
		return []byte(strconv.Itoa(len(applied))), err
	})
}

// statuses returns the statuses of calls that fail.
//
//go:wasmexport statuses
func statuses() int32 {
	return kvasm.Function(func([]byte) ([]byte, error) {
		c := kvasm.Collection("c")
		var out []byte
		put := func(err error) {
			status := kvasm.Status(0)
			var failed *kvasm.Error
			if errors.As(err, &failed) {
				status = failed.Status
			}
			out = append(strconv.AppendInt(out, int64(status), 10), ' ')
		}
		_, err := c.Get("none")
		put(err)
		put(c.Set("k", []byte("k"), kvasm.IfVersion(7)))
		_, err = kvasm.Secret("undeclared")
		put(err)
		_, err = kvasm.Fetch(kvasm.Outbound{Method: "GET", URL: "http://undeclared.example/"})
		put(err)
		put(c.Set("", []byte("k")))
		put(c.Set("k", make([]byte, 1024*1024+1)))
		if err = c.SetJSON("k", "text"); err != nil {
			return nil, err
		}
		_, err = c.Increment("k", 1)
		put(err)
		put(kvasm.TimerAfter("", 0, nil))
		return out, nil
	})
}

// handle keeps the body of a request under its path. kvasm.json makes it a transaction: a failure
// leaves nothing.
//
//go:wasmexport handle
func handle() int32 {
	return kvasm.HTTP(func(request *kvasm.Request) (*kvasm.Response, error) {
		if err := kvasm.Collection("requests").Set(request.Path, request.Body); err != nil {
			return nil, err
		}
		if string(request.Body) == "fail" {
			return nil, errors.New("on purpose")
		}
		return &kvasm.Response{
			Status:  201,
			Headers: [][2]string{{"location", request.Path}},
			Body:    []byte(request.Header("x-quoted")),
		}, nil
	})
}

func main() {}
