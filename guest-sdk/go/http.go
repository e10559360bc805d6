package kvasm

import (
	"strconv"
	"strings"
	"time"
)

// Request is a request to the app.
type Request struct {
	Method string
	// Path begins with "/". It and Query are percent-encoded, as the client sent them.
	Path  string
	Query string
	// Headers are pairs of a name, in lower case, and a value.
	Headers [][2]string
	Body    []byte
}

// Header returns the first header of this name, or "".
func (r *Request) Header(name string) string { return header(r.Headers, name) }

func header(headers [][2]string, name string) string {
	for _, header := range headers {
		if strings.EqualFold(header[0], name) {
			return header[1]
		}
	}
	return ""
}

// Response is the answer to a request.
type Response struct {
	Status  int
	Headers [][2]string
	Body    []byte
}

// Header returns the first header of this name, or "".
func (r *Response) Header(name string) string { return header(r.Headers, name) }

// Text returns a response with a text.
func Text(status int, text string) *Response {
	kind := [2]string{"content-type", "text/plain; charset=utf-8"}
	return &Response{Status: status, Headers: [][2]string{kind}, Body: []byte(text)}
}

func parseRequest(bytes []byte) (*Request, error) {
	head, body, ok := splitFrame(bytes)
	members, valid := parseHead(head)
	if !ok || !valid {
		return nil, errMalformed
	}
	return &Request{
		Method:  members.text("method"),
		Path:    members.text("path"),
		Query:   members.text("query"),
		Headers: members.headers(),
		Body:    body,
	}, nil
}

func (r *Response) frame() []byte {
	head := strconv.AppendInt([]byte(`{"status":`), int64(r.Status), 10)
	return joinFrame(append(putHeaders(head, r.Headers), '}'), r.Body)
}

// HTTP runs the handler of requests. An error becomes status 500; its message goes to the app's log.
func HTTP(handle func(request *Request) (*Response, error)) int32 {
	return guard(func() ([]byte, error) {
		request, err := parseRequest(input())
		if err != nil {
			return nil, err
		}
		response, err := handle(request)
		if err != nil {
			return nil, err
		}
		return response.frame(), nil
	})
}

// Outbound is a request to another server, whose origin the plugin must declare and the app grant.
type Outbound struct {
	Method  string
	URL     string
	Headers [][2]string
	// TimeoutMs is optional.
	TimeoutMs int64
	Body      []byte
}

// Fetch sends a request, and returns the response of any status. [Remote]: there was none.
func Fetch(request Outbound) (*Response, error) {
	head := putText([]byte(`{"method":`), request.Method)
	head = putText(append(head, `,"url":`...), request.URL)
	head = putHeaders(head, request.Headers)
	if request.TimeoutMs != 0 {
		head = strconv.AppendInt(append(head, `,"timeout_ms":`...), request.TimeoutMs, 10)
	}
	head = append(head, '}')
	bytes, status := httpFetch(joinFrame(head, request.Body))
	if err := check(status); err != nil {
		return nil, err
	}
	head, body, ok := splitFrame(bytes)
	members, valid := parseHead(head)
	if !ok || !valid {
		return nil, errMalformed
	}
	status = members.number("status")
	return &Response{Status: int(status), Headers: members.headers(), Body: body}, nil
}

// Delivery is what a handler of changes, schedules or timers receives.
type Delivery struct {
	// Kind is "set", "delete", "schedule" or "timer".
	Kind string
	// EventID is the same in every attempt and replay.
	EventID string
	Trigger string
	Attempt int
	Depth   int
	AtMs    int64
	// Collection, Key and Version: of a change.
	Collection string
	Key        string
	Version    uint64
	// Timer is the name of a timer.
	Timer string
	// Body is the value that was set, or the payload of a timer.
	Body []byte
}

// At returns the time of the change, or when the schedule or the timer was due.
func (d *Delivery) At() time.Time { return time.UnixMilli(d.AtMs) }

// Deliver runs a handler of changes, a schedule or timers. The run is a transaction. After an error
// it is run again later; see [Permanent] and [Later].
func Deliver(handle func(delivery *Delivery) error) int32 {
	return guard(func() ([]byte, error) {
		delivery, err := parseDelivery(input())
		if err != nil {
			return nil, Permanent(err)
		}
		return nil, handle(delivery)
	})
}

func parseDelivery(bytes []byte) (*Delivery, error) {
	head, body, ok := splitFrame(bytes)
	members, valid := parseHead(head)
	if !ok || !valid {
		return nil, errMalformed
	}
	return &Delivery{
		Kind:       members.text("kind"),
		EventID:    members.text("event_id"),
		Trigger:    members.text("trigger"),
		Attempt:    int(members.number("attempt")),
		Depth:      int(members.number("depth")),
		AtMs:       members.number("at_ms"),
		Collection: members.text("collection"),
		Key:        members.text("key"),
		Version:    uint64(members.number("version")),
		Timer:      members.text("timer"),
		Body:       body,
	}, nil
}
