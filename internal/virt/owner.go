package virt

import (
	"path/filepath"
	"strconv"
	"time"

	"github.com/beevik/etree"
)

// namespace names the elements that meros keeps in libvirt's metadata. The
// number is the form's: a meros that reads another one does not own the object.
const namespace = "urn:meros:object:1"

// Owner says whose an object is. The zero Owner is somebody who is not meros.
type Owner struct {
	Family string
	Target string // "" on a network
	Root   string // absolute folder that holds conf/ and data/, links resolved
}

// Mark is what else an object of ours carries in its metadata.
type Mark struct {
	Recipe     string    // what the recipe was when it started, as a hash; "" if not known
	Rank       int       // place in the order of starts: higher ones are stopped first
	Started    time.Time // in seconds; zero for networks
	Disposable bool      // what the guest writes is thrown away
	Disk       int64     // bytes of the image's disk, which only libvirt's user can read while it runs; 0 if not known
}

// RootOf returns a root folder in the form that Owner compares.
func RootOf(root string) string {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return filepath.Clean(root)
	}
	return real
}

// Describe names the owner in an error: "another program", or "meros in ROOT".
func (o Owner) Describe() string {
	if o == (Owner{}) {
		return "another program"
	}
	return "the family " + o.Family + " of " + o.Root
}

// stamp writes the owner and the mark into a document's metadata, in place of
// earlier ones.
func (o Owner) stamp(root *etree.Element, m Mark) {
	meta := root.SelectElement("metadata")
	if meta == nil {
		meta = insertAfter(root, "metadata", "name")
	}
	for _, e := range meta.ChildElements() {
		if e.NamespaceURI() == namespace {
			meta.RemoveChild(e)
		}
	}
	kind := "network"
	if o.Target != "" {
		kind = "target"
	}
	e := meta.CreateElement("meros:" + kind)
	e.CreateAttr("xmlns:meros", namespace)
	e.CreateAttr("family", o.Family)
	if o.Target != "" {
		e.CreateAttr("target", o.Target)
	}
	e.CreateAttr("root", o.Root)
	if m.Recipe != "" {
		e.CreateAttr("recipe", m.Recipe)
	}
	if m.Rank > 0 {
		e.CreateAttr("rank", strconv.Itoa(m.Rank))
	}
	if !m.Started.IsZero() {
		e.CreateAttr("started", m.Started.UTC().Format(time.RFC3339))
	}
	if m.Disposable {
		e.CreateAttr("disposable", "yes")
	}
	if m.Disk > 0 {
		e.CreateAttr("disk", strconv.FormatInt(m.Disk, 10))
	}
}

// ownerIn reads owner and mark out of a document of libvirt's.
func ownerIn(xml string) (Owner, Mark) {
	doc := etree.NewDocument()
	if doc.ReadFromString(xml) != nil || doc.Root() == nil {
		return Owner{}, Mark{}
	}
	meta := doc.Root().SelectElement("metadata")
	if meta == nil {
		return Owner{}, Mark{}
	}
	for _, e := range meta.ChildElements() {
		if e.NamespaceURI() == namespace {
			return readMeta(e)
		}
	}
	return Owner{}, Mark{}
}

func readMeta(e *etree.Element) (Owner, Mark) {
	// Without a number the rank is 0: somebody has edited it, and the order is lost.
	rank, _ := strconv.Atoi(e.SelectAttrValue("rank", ""))
	disk, _ := strconv.ParseInt(e.SelectAttrValue("disk", ""), 10, 64)
	started, _ := time.Parse(time.RFC3339, e.SelectAttrValue("started", ""))
	owner := Owner{
		Family: e.SelectAttrValue("family", ""),
		Target: e.SelectAttrValue("target", ""),
		Root:   e.SelectAttrValue("root", ""),
	}
	mark := Mark{
		Recipe:     e.SelectAttrValue("recipe", ""),
		Rank:       rank,
		Started:    started,
		Disposable: e.SelectAttrValue("disposable", "") == "yes",
		Disk:       disk,
	}
	return owner, mark
}

// insertAfter makes a child element behind the first one called sibling, or in
// front of all others where there is none.
func insertAfter(parent *etree.Element, tag, sibling string) *etree.Element {
	e := etree.NewElement(tag)
	at := 0
	if s := parent.SelectElement(sibling); s != nil {
		at = s.Index() + 1
	}
	parent.InsertChildAt(at, e)
	return e
}
