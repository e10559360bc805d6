package kvasm

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// The heads of requests and deliveries are JSON. This reads them, in a fraction of the size of
// encoding/json, and takes valid JSON only from the host: of other text it may accept some.

// head is an object: names, and the values as they are written.
type head map[string]string

func parseHead(bytes []byte) (head, bool) {
	p := parser{rest: string(bytes)}
	members := head{}
	if !p.eat('{') {
		return nil, false
	}
	if p.eat('}') {
		return members, true
	}
	for {
		name, ok := p.value()
		if !ok || !p.eat(':') {
			return nil, false
		}
		value, ok := p.value()
		if !ok {
			return nil, false
		}
		members[unquote(name)] = value
		if !p.eat(',') {
			return members, p.eat('}')
		}
	}
}

func (h head) raw(name string) string  { return h[name] }
func (h head) text(name string) string { return unquote(h[name]) }

func (h head) number(name string) int64 {
	number, err := strconv.ParseInt(h[name], 10, 64)
	if err != nil {
		return 0
	}
	return number
}

// headers reads pairs of name and value.
func (h head) headers() [][2]string {
	var headers [][2]string
	p := parser{rest: h["headers"]}
	if !p.eat('[') {
		return nil
	}
	for p.eat('[') {
		name, _ := p.value()
		p.eat(',')
		value, _ := p.value()
		p.eat(']')
		p.eat(',')
		headers = append(headers, [2]string{unquote(name), unquote(value)})
	}
	return headers
}

type parser struct{ rest string }

func (p *parser) eat(mark byte) bool {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	if p.rest == "" || p.rest[0] != mark {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// value takes the text of the next value.
func (p *parser) value() (string, bool) {
	p.rest = strings.TrimLeft(p.rest, " \t\r\n")
	depth, quoted := 0, false
	for i := 0; i < len(p.rest); i++ {
		c := p.rest[i]
		switch {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
			if !quoted && depth == 0 {
				return p.split(i + 1)
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ']') && depth > 0:
			if depth--; depth == 0 {
				return p.split(i + 1)
			}
		case depth == 0 && strings.IndexByte(",:}] \t\r\n", c) >= 0:
			return p.split(i)
		}
	}
	return "", false
}

func (p *parser) split(at int) (string, bool) {
	value := p.rest[:at]
	p.rest = p.rest[at:]
	return value, at > 0
}

// unquote returns the text of a JSON string, and "" for any other value.
func unquote(json string) string {
	if len(json) < 2 || json[0] != '"' {
		return ""
	}
	json = json[1 : len(json)-1]
	if strings.IndexByte(json, '\\') < 0 {
		return json
	}
	out := make([]byte, 0, len(json))
	for i := 0; i < len(json); i++ {
		if json[i] != '\\' || i+1 == len(json) {
			out = append(out, json[i])
			continue
		}
		i++
		switch json[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			unit := hexUnit(json, i+1)
			i += 4
			if utf16.IsSurrogate(unit) && i+6 < len(json) {
				unit = utf16.DecodeRune(unit, hexUnit(json, i+3))
				i += 6
			}
			out = utf8.AppendRune(out, unit)
		default:
			out = append(out, json[i])
		}
	}
	return string(out)
}

func hexUnit(text string, at int) rune {
	if at+4 > len(text) {
		return utf8.RuneError
	}
	unit, err := strconv.ParseUint(text[at:at+4], 16, 16)
	if err != nil {
		return utf8.RuneError
	}
	return rune(unit)
}

// putText appends a JSON string. Bytes that are not UTF-8 become U+FFFD.
func putText(out []byte, text string) []byte {
	out = append(out, '"')
	for _, c := range text {
		switch {
		case c == '"' || c == '\\':
			out = append(out, '\\', byte(c))
		case c < ' ':
			const digits = "0123456789abcdef"
			out = append(out, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			out = utf8.AppendRune(out, c)
		}
	}
	return append(out, '"')
}

// putHeaders appends the member "headers", after another member.
func putHeaders(out []byte, headers [][2]string) []byte {
	out = append(out, `,"headers":[`...)
	for i, header := range headers {
		if i > 0 {
			out = append(out, ',')
		}
		out = putText(append(out, '['), header[0])
		out = append(putText(append(out, ','), header[1]), ']')
	}
	return append(out, ']')
}
