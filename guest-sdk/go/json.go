package kvasm

import (
	"encoding/json"
	"time"
)

// What is in this file uses encoding/json, which a plugin contains only if it calls some of it.

type jsonError struct {
	where string
	err   error
}

func (e *jsonError) Error() string { return e.where + e.err.Error() }
func (e *jsonError) Unwrap() error { return e.err }

// FunctionJSON is like [Function], with JSON on both sides. Input that is not valid is rejected.
func FunctionJSON[In, Out any](run func(input In) (Out, error)) int32 {
	return guard(func() ([]byte, error) {
		var in In
		if err := json.Unmarshal(input(), &in); err != nil {
			return nil, Refused("invalid input: " + err.Error())
		}
		out, err := run(in)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	})
}

// GetJSON decodes a value of JSON. It returns false if the entry does not exist.
func (c Collection) GetJSON(key string, value any) (bool, error) {
	bytes, err := c.Get(key)
	if Is(err, NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(bytes, value); err != nil {
		return false, &jsonError{string(c) + "/" + key + ": ", err}
	}
	return true, nil
}

// SetJSON writes a value as JSON.
func (c Collection) SetJSON(key string, value any, options ...SetOption) error {
	bytes, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return check(kvSet(string(c), key, bytes, formatJSON, encodeSet(options)))
}

// SetJSON writes JSON text.
func (b *Batch) SetJSON(c Collection, key string, value any, ttl time.Duration) error {
	bytes, err := json.Marshal(value)
	if err == nil {
		b.set(c, key, formatJSON, bytes, ttl)
	}
	return err
}

// JSON returns a response with a value as JSON.
func JSON(status int, value any) (*Response, error) {
	body, err := json.Marshal(value)
	kind := [2]string{"content-type", "application/json"}
	return &Response{Status: status, Headers: [][2]string{kind}, Body: body}, err
}
