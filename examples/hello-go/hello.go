// Notes in Go, and a greeting that counts its visits.
//
// Each call runs in a fresh instance: variables last for one call, entries stay. kvasm.json says what
// each export is.
package main

import (
	"strconv"
	"strings"

	"kvasm"
)

const (
	notes  = kvasm.Collection("notes")
	visits = kvasm.Collection("visits")
	stats  = kvasm.Collection("stats")
)

// hello greets the name in the input, and counts its visits. Concurrent calls lose none.
//
//go:wasmexport hello
func hello() int32 { return kvasm.Function(greet) }

func greet(input []byte) ([]byte, error) {
	name := string(input)
	if len(name) < 1 || len(name) > 64 {
		return nil, kvasm.Refused("the input must be a name of 1 to 64 bytes")
	}
	var visit int
	err := visits.Update(name, func(value []byte) ([]byte, error) {
		visit = 0
		if value != nil {
			var err error
			if visit, err = strconv.Atoi(string(value)); err != nil {
				return nil, kvasm.Refused("the visits are not a number")
			}
		}
		visit++
		return []byte(strconv.Itoa(visit)), nil
	})
	return []byte("Hello, " + name + "! Visit " + strconv.Itoa(visit) + ".\n"), err
}

// set keeps a note: the input is "name=text".
//
//go:wasmexport set
func set() int32 { return kvasm.Function(keep) }

func keep(input []byte) ([]byte, error) {
	name, text, found := strings.Cut(string(input), "=")
	if !found {
		return nil, kvasm.Refused("the input must be name=text")
	}
	return nil, notes.Set(name, []byte(text))
}

// get returns the note of this name.
//
//go:wasmexport get
func get() int32 { return kvasm.Function(read) }

func read(input []byte) ([]byte, error) {
	text, err := notes.Get(string(input))
	if kvasm.Is(err, kvasm.NotFound) {
		return nil, kvasm.Refused("there is no such note")
	}
	return text, err
}

// list returns all names with this prefix, one per line.
//
//go:wasmexport list
func list() int32 { return kvasm.Function(names) }

func names(prefix []byte) ([]byte, error) {
	var lines []byte
	for note, err := range notes.List(kvasm.ListOptions{Prefix: string(prefix), PageSize: 100}) {
		if err != nil {
			return nil, err
		}
		lines = append(append(lines, note.Key...), '\n')
	}
	return lines, nil
}

// rename_note gives a note another name: the input is "old=new". kvasm.json makes it a transaction:
// all of it takes effect, or nothing, and it is run again if another call has changed what it has
// read.
//
//go:wasmexport rename_note
func renameNote() int32 { return kvasm.Function(rename) }

func rename(input []byte) ([]byte, error) {
	from, to, found := strings.Cut(string(input), "=")
	if !found {
		return nil, kvasm.Refused("the input must be old=new")
	}
	text, err := notes.Get(from)
	if kvasm.Is(err, kvasm.NotFound) {
		return nil, kvasm.Refused("there is no such note")
	}
	if err != nil {
		return nil, err
	}
	if _, err = notes.Delete(from); err != nil {
		return nil, err
	}
	taken, err := notes.Has(to)
	if err != nil {
		return nil, err
	}
	if taken {
		// The delete above takes no effect either.
		return nil, kvasm.Refused("there is a note of the new name")
	}
	return nil, notes.Set(to, text)
}

// clear deletes all notes at once, up to 1,000, and returns how many there were.
//
//go:wasmexport clear
func clearNotes() int32 { return kvasm.Function(deleteAll) }

func deleteAll([]byte) ([]byte, error) {
	var batch kvasm.Batch
	for note, err := range notes.List(kvasm.ListOptions{}) {
		if err != nil {
			return nil, err
		}
		if batch.Len() == 1000 {
			break
		}
		batch.Delete(notes, note.Key)
	}
	_, err := batch.Commit()
	return []byte(strconv.Itoa(batch.Len())), err
}

// handle answers requests to the app: GET / lists the names, GET /name returns a note, PUT /name
// keeps one.
//
//go:wasmexport handle
func handle() int32 { return kvasm.HTTP(answer) }

func answer(request *kvasm.Request) (*kvasm.Response, error) {
	name := request.Path[1:]
	switch {
	case request.Method == "GET" && name == "":
		lines, err := names(nil)
		return kvasm.Text(200, string(lines)), err
	case request.Method == "GET":
		text, err := notes.Get(name)
		if kvasm.Is(err, kvasm.NotFound) {
			return kvasm.Text(404, "there is no such note"), nil
		}
		return kvasm.Text(200, string(text)), err
	case request.Method == "PUT" && name != "":
		return &kvasm.Response{Status: 204}, notes.Set(name, request.Body)
	}
	allow := [2]string{"allow", "GET, PUT"}
	return &kvasm.Response{Status: 405, Headers: [][2]string{allow}}, nil
}

// count is called after each change of a note, with an exactly-once effect on entries: it counts the
// writes and the deletes.
//
//go:wasmexport count
func count() int32 { return kvasm.Deliver(countChange) }

func countChange(change *kvasm.Delivery) error {
	kvasm.LogInfo(change.Kind + " " + change.Key)
	_, err := stats.Increment(change.Kind, 1)
	return err
}

func main() {}
