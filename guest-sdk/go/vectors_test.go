package kvasm

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func value(entry Entry) string {
	format := 1
	if entry.IsJSON {
		format = 0
	}
	return fmt.Sprintf("%d/%d/%d/%x", entry.Version, entry.ExpiresAtMs, format, entry.Value)
}

func meaningOfPage(bytes []byte, values bool) string {
	entries, cursor, ok := readPage(bytes, values)
	if !ok {
		return "malformed"
	}
	var texts []string
	for _, entry := range entries {
		text := fmt.Sprintf("%x", entry.Key)
		if values {
			text += "/" + value(entry)
		}
		texts = append(texts, text)
	}
	return fmt.Sprintf("cursor=%x entries=%s", cursor, strings.Join(texts, ","))
}

func meaningOfSlots(bytes []byte) string {
	slots, ok := readSlots(bytes, nil)
	if !ok {
		return "malformed"
	}
	var texts []string
	for _, slot := range slots {
		if slot == nil {
			texts = append(texts, "-")
		} else {
			texts = append(texts, value(*slot))
		}
	}
	return strings.Join(texts, ",")
}

func meaningOfApplied(bytes []byte) string {
	applied, ok := readApplied(bytes)
	if !ok {
		return "malformed"
	}
	var texts []string
	for _, one := range applied {
		texts = append(texts, fmt.Sprintf("%d/%d", one.Result, one.Value))
	}
	return strings.Join(texts, ",")
}

func meaningOfRequest(bytes []byte) string {
	request, err := parseRequest(bytes)
	if err != nil {
		return "malformed"
	}
	var headers []string
	for _, header := range request.Headers {
		headers = append(headers, fmt.Sprintf("%x:%x", header[0], header[1]))
	}
	return fmt.Sprintf("%x %x %x %x %s", request.Method, request.Path, request.Query, request.Body,
		strings.Join(headers, ","))
}

func meaningOfDelivery(bytes []byte) string {
	it, err := parseDelivery(bytes)
	if err != nil {
		return "malformed"
	}
	return fmt.Sprintf("%x %x %x %d %x", it.Kind, it.Collection, it.Key, it.Version, it.Body)
}

// built is what plugins write.
func built(kind string) []byte {
	switch kind {
	case "keys":
		return packKeys("notes", []string{"a", "é"})
	case "batch":
		var batch Batch
		batch.Check("notes", "é", 1<<40)
		batch.Set("notes", "a", []byte{0, 0xff}, time.Minute)
		batch.Delete("notes", "b")
		batch.Increment("stats", "c", -2)
		batch.TimerAfter("t", 5*time.Second, []byte("p"))
		batch.TimerCancel("u")
		return batch.packed()
	case "response":
		header := [2]string{"x-a", "q\"\\\x01é"}
		response := &Response{Status: 201, Headers: [][2]string{header}, Body: []byte{0}}
		return response.frame()
	case "set-options":
		return encodeSet([]SetOption{TTL(time.Minute), IfVersion(7)})
	}
	return encodeDelete(7)
}

// The vectors are those that every language reads.
func TestGoldenVectors(t *testing.T) {
	text, err := os.ReadFile("../vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	cases := 0
	for _, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		cases++
		words := strings.SplitN(line, " ", 3)
		kind, digits, expected := words[0], words[1], words[2]
		bytes, err := hex.DecodeString(strings.Trim(digits, "-"))
		if err != nil {
			t.Fatal(err)
		}
		var found string
		switch kind {
		case "page", "page-values":
			found = meaningOfPage(bytes, kind == "page-values")
		case "slots":
			found = meaningOfSlots(bytes)
		case "applied":
			found = meaningOfApplied(bytes)
		case "request":
			found = meaningOfRequest(bytes)
		case "delivery":
			found = meaningOfDelivery(bytes)
		default:
			found, expected = fmt.Sprintf("%x", built(kind)), digits
		}
		if found != expected {
			t.Errorf("%s\n  found %s", line, found)
		}
	}
	if cases < 20 {
		t.Errorf("only %d cases", cases)
	}
}
