package virt

import "github.com/beevik/etree"

// WithoutConsoleLog returns the document without the log file that
// DomainDocument added, for a libvirt that may not write there.
func (d Document) WithoutConsoleLog(file string) Document {
	doc := etree.NewDocument()
	if doc.ReadFromString(d.XML) != nil || doc.Root() == nil {
		return d
	}
	for _, log := range doc.FindElements("/domain/devices/serial/log") {
		if log.SelectAttrValue("file", "") == file {
			log.Parent().RemoveChild(log)
		}
	}
	if xml, err := doc.WriteToString(); err == nil {
		d.XML = xml
	}
	return d
}

// WithBacking returns the document with the backing file of one of its disks named:
// libvirt then leaves that file to its owner, where it would take it for its own
// user and never give it back. libvirt's user has to be able to read it.
func (d Document) WithBacking(overlay, backing string) Document {
	doc := etree.NewDocument()
	if doc.ReadFromString(d.XML) != nil {
		return d
	}
	for _, disk := range doc.FindElements("/domain/devices/disk") {
		source := disk.SelectElement("source")
		if source == nil || source.SelectAttrValue("file", "") != overlay || disk.SelectElement("backingStore") != nil {
			continue
		}
		store := etree.NewElement("backingStore")
		disk.InsertChildAt(source.Index()+1, store)
		store.CreateAttr("type", "file")
		store.CreateElement("format").CreateAttr("type", "qcow2")
		below := store.CreateElement("source")
		below.CreateAttr("file", backing)
		label := below.CreateElement("seclabel")
		label.CreateAttr("model", "dac")
		label.CreateAttr("relabel", "no")
		store.CreateElement("backingStore") // nothing is below it
	}
	if xml, err := doc.WriteToString(); err == nil {
		d.XML = xml
	}
	return d
}
