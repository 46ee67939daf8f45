package virt

import (
	"errors"
	"fmt"
	"strings"

	"github.com/beevik/etree"
)

// parseDocument reads one document whose root element must be want.
func parseDocument(xml []byte, want string) (*etree.Document, error) {
	doc := etree.NewDocument()
	doc.ReadSettings = etree.ReadSettings{PreserveCData: true}
	if err := doc.ReadFromBytes(xml); err != nil {
		return nil, fmt.Errorf("not well-formed: %w", err)
	}
	if err := checkAround(doc); err != nil {
		return nil, err
	}
	if root := doc.Root(); root == nil || root.FullTag() != want {
		return nil, fmt.Errorf("the root element is not <%s>", want)
	}
	return doc, nil
}

// checkAround looks at what stands beside the root element: comments may, and
// white space.
func checkAround(doc *etree.Document) error {
	roots := 0
	for _, token := range doc.Child {
		switch t := token.(type) {
		case *etree.Directive:
			return errors.New("a document type declaration is not allowed")
		case *etree.Element:
			roots++
		case *etree.CharData:
			if !t.IsWhitespace() {
				return errors.New("not well-formed: text outside of the root element")
			}
		}
	}
	if roots > 1 {
		return errors.New("not well-formed: more than one root element")
	}
	return nil
}

// text returns the document for libvirt.
func text(doc *etree.Document) (string, error) {
	settings := etree.NewIndentSettings()
	settings.Spaces = 2
	settings.PreserveLeafWhitespace = true
	doc.IndentWithSettings(settings)
	return doc.WriteToString()
}

// The words that stand for a target's facts in a recipe's documents.
const (
	varTarget  = "$TARGET_FULL_ID"
	varImage   = "$TARGET_ROOTFS_IMG"
	varCDROM   = "$TARGET_CDROM" // ours alone: recipes leave the drive to meros
	varKernel  = "$KERNEL_IMG"
	varInitrd  = "$INITRD_IMG"
	varNetwork = "$NETWORK_FULL_ID"
)

// values maps the words above to what stands in for them. "" means that there is
// no such thing, and that a document which names it is at fault.
type values map[string]string

// substitute puts the values into every text and attribute below e. They are
// data: a value never becomes an element, nor is it looked at again.
func (v values) substitute(e *etree.Element) error {
	var faults []error
	v.walk(e, func(err error) { faults = append(faults, err) })
	return errors.Join(faults...)
}

func (v values) walk(e *etree.Element, fault func(error)) {
	for i := range e.Attr {
		e.Attr[i].Value = v.expand(e.Attr[i].Value, e, fault)
	}
	for _, token := range e.Child {
		switch t := token.(type) {
		case *etree.CharData:
			if strings.Contains(t.Data, "$") {
				t.SetData(v.expand(t.Data, e, fault))
			}
		case *etree.Element:
			v.walk(t, fault)
		}
	}
}

func (v values) expand(s string, at *etree.Element, fault func(error)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var pairs []string
	for word, value := range v {
		if value == "" && strings.Contains(s, word) {
			fault(fmt.Errorf("<%s>: nothing stands for %s here", at.FullTag(), word))
		}
		pairs = append(pairs, word, value)
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// isVariable reports that a value is left to meros: empty, or one word from the
// list and nothing else.
func isVariable(s, word string) bool {
	s = strings.TrimSpace(s)
	return s == "" || s == word
}

// child returns the first child element of that name, made if there is none.
func child(e *etree.Element, tag string) *etree.Element {
	if c := e.SelectElement(tag); c != nil {
		return c
	}
	return e.CreateElement(tag)
}
