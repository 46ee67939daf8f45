package family

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"sort"
	"strings"
	"unicode/utf8"
)

// A recipe's XML is a page or two. The limits keep a file that is something else
// from being read into memory or walked at length.
const (
	maxXML   = 1 << 20 // bytes
	maxDepth = 64      // elements inside each other; libvirt's own documents stay below 15
)

// node is an element with the lines its parts stand in.
type node struct {
	name     string
	line     int
	attrs    []attr
	children []*node
	texts    []text
}

type attr struct {
	name, value string
	line        int
}

// text is a run of character data; line is where it begins.
type text struct {
	value string
	line  int
}

// attr returns the attribute of that name; n may be nil.
func (n *node) attr(name string) (attr, bool) {
	if n == nil {
		return attr{}, false
	}
	for _, a := range n.attrs {
		if a.name == name {
			return a, true
		}
	}
	return attr{}, false
}

// child returns the first element of that name right inside n, or nil.
func (n *node) child(name string) *node {
	for _, c := range n.children {
		if c.name == name {
			return c
		}
	}
	return nil
}

// readXML returns the root element of a document, or nil when it is not well
// formed. Whatever could make a reader fetch, expand or interpret is a fault:
// document types, entities of its own, processing instructions.
func readXML(data []byte, f *file) *node {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(bytes.TrimSpace(data)) == 0 {
		f.fault(1, "", "the file is empty")
		return nil
	}
	x := &xmlReader{file: f, data: data, dec: xml.NewDecoder(bytes.NewReader(data))}
	if bad := invalidByte(data); bad >= 0 {
		f.fault(x.lineAt(bad), "", "the file is not UTF-8 text")
		return nil
	}
	for x.next() {
	}
	if x.broken {
		return nil
	}
	return x.root
}

// invalidByte returns the offset of the first byte that is not UTF-8, or -1.
func invalidByte(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

type xmlReader struct {
	file   *file
	data   []byte
	dec    *xml.Decoder
	starts []int // offsets of line starts, made when first asked for
	root   *node
	stack  []*node
	broken bool // not well formed: what was read cannot be judged
}

// lineAt returns the line, from 1, of a byte.
func (x *xmlReader) lineAt(offset int) int {
	if x.starts == nil {
		x.starts = []int{0}
		for i, c := range x.data {
			if c == '\n' {
				x.starts = append(x.starts, i+1)
			}
		}
	}
	return sort.SearchInts(x.starts, offset+1)
}

// next reads one token and reports whether another may follow.
func (x *xmlReader) next() bool {
	start := int(x.dec.InputOffset())
	token, err := x.dec.Token()
	if err != nil {
		x.end(err)
		return false
	}
	switch t := token.(type) {
	case xml.StartElement:
		return x.open(t, start)
	case xml.EndElement:
		x.stack = x.stack[:max(len(x.stack)-1, 0)]
	case xml.CharData:
		x.chars(string(t), start)
	case xml.Directive:
		word, _, _ := strings.Cut(string(t), " ")
		x.file.fault(x.lineAt(start), "", "<!%s …> has no place in a recipe: no document types, no entities", shorten(word))
	case xml.ProcInst:
		x.instruction(t, start)
	}
	return true
}

// end judges the error that ended the document: io.EOF is a good end.
func (x *xmlReader) end(err error) {
	switch syntax, ok := errors.AsType[*xml.SyntaxError](err); {
	case err == io.EOF && x.root == nil && x.file.count == 0:
		x.fail(1, "the file holds no element")
	case err == io.EOF:
		x.broken = x.root == nil
	case ok:
		x.fail(syntax.Line, "not well-formed XML: %s", shorten(syntax.Msg))
	default: // of the declaration: another encoding, or another version of XML
		line, _ := x.dec.InputPos()
		x.fail(line, "must be XML 1.0 in UTF-8")
	}
}

func (x *xmlReader) fail(line int, format string, args ...any) {
	x.broken = true
	x.file.fault(line, "", format, args...)
}

// shorten keeps a message of encoding/xml, which quotes the document, to a line.
func shorten(message string) string {
	message = strings.TrimPrefix(message, "xml: ")
	if quoted := show(message); strings.HasSuffix(quoted, "…") || quoted != `"`+message+`"` {
		return quoted
	}
	return message
}

func (x *xmlReader) open(t xml.StartElement, start int) bool {
	line := x.lineAt(start)
	switch {
	case x.root != nil && len(x.stack) == 0:
		x.fail(line, "<%s> after the end of the document: one root element is allowed", shorten(t.Name.Local))
		return false
	case len(x.stack) == maxDepth:
		x.fail(line, "elements more than %d deep in each other", maxDepth)
		return false
	}
	n := &node{name: fullName(t.Name), line: line}
	n.attrs = x.attributes(n.name, t.Attr, start)
	if x.root == nil {
		x.root = n
	} else {
		parent := x.stack[len(x.stack)-1]
		parent.children = append(parent.children, n)
	}
	x.stack = append(x.stack, n)
	return true
}

// fullName is the name with its name space before it, so that no name of another
// vocabulary passes for one of ours.
func fullName(name xml.Name) string {
	if name.Space != "" {
		return name.Space + ":" + name.Local
	}
	return name.Local
}

// attributes pairs the attributes of the tag that begins at start with their
// lines. One that is there twice is a fault, and its first value counts.
func (x *xmlReader) attributes(element string, from []xml.Attr, start int) []attr {
	offsets := attrOffsets(x.data[start:x.dec.InputOffset()])
	var attrs []attr
	first := map[string]int{}
	for i, a := range from {
		at := start
		if i < len(offsets) {
			at = start + offsets[i]
		}
		got := attr{name: fullName(a.Name), value: a.Value, line: x.lineAt(at)}
		if line, twice := first[got.name]; twice {
			x.file.fault(got.line, shorten(element), "attribute %s is there twice, first in line %d", show(got.name), line)
			continue
		}
		first[got.name] = got.line
		attrs = append(attrs, got)
	}
	return attrs
}

// attrOffsets returns where the attributes of a well-formed start tag begin.
func attrOffsets(tag []byte) []int {
	const space = " \t\r\n"
	var offsets []int
	i := bytes.IndexAny(tag, space)
	for i >= 0 && i < len(tag) {
		i += len(tag[i:]) - len(bytes.TrimLeft(tag[i:], space))
		equals := bytes.IndexByte(tag[i:], '=')
		if equals < 0 {
			break
		}
		open := i + equals + 1
		open += len(tag[open:]) - len(bytes.TrimLeft(tag[open:], space))
		if open >= len(tag) {
			break
		}
		length := bytes.IndexByte(tag[open+1:], tag[open])
		if length < 0 {
			break
		}
		offsets = append(offsets, i)
		i = open + 1 + length + 1
	}
	return offsets
}

func (x *xmlReader) chars(s string, start int) {
	if len(x.stack) > 0 {
		n := x.stack[len(x.stack)-1]
		n.texts = append(n.texts, text{s, x.lineAt(start)})
		return
	}
	if lead := len(s) - len(strings.TrimLeft(s, " \t\r\n")); lead < len(s) {
		x.file.fault(x.lineAt(min(start+lead, len(x.data)-1)), "", "text outside of the root element: %s", show(strings.TrimSpace(s)))
	}
}

func (x *xmlReader) instruction(t xml.ProcInst, start int) {
	switch {
	case t.Target != "xml":
		x.file.fault(x.lineAt(start), "", "<?%s …?> has no place in a recipe: no processing instructions", shorten(t.Target))
	case start != 0:
		x.file.fault(x.lineAt(start), "", "<?xml …?> belongs at the very start of the file")
	}
}
