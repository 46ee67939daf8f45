package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Of QEMU's docs/interop/qcow2.txt, version 3.
const (
	qcow2Magic      = 0x514649fb // "QFI\xfb"
	clusterBits     = 16
	clusterSize     = 1 << clusterBits
	entriesPerTable = clusterSize / 8 // of L1, L2 and refcount tables
	refsPerBlock    = clusterSize / 2 // 16 bits each
	copied          = 1 << 63         // this cluster has exactly one reference
	headerLength    = 104
)

// qcow2 is a qcow2 file whose tables come first and whose data clusters follow
// in the order of the guest's disk: byte x of the disk is byte dataOffset+x of
// the file. So any program can write the disk's content into the file as if it
// were raw; finish then points at the clusters that hold data and leaves the
// others unallocated.
type qcow2 struct {
	size       int64 // of the guest's disk, a multiple of a cluster
	l1Clusters int64
	l2Tables   int64
	refTable   int64 // clusters
	refBlocks  int64
	dataOffset int64
}

func newQcow2(size int64) *qcow2 {
	q := &qcow2{size: ceil(size, clusterSize) * clusterSize}
	q.l2Tables = ceil(q.clusters(), entriesPerTable)
	q.l1Clusters = ceil(q.l2Tables, entriesPerTable)
	// The refcounts count themselves, so grow them until they cover all.
	for {
		total := q.tables() + q.clusters()
		blocks := ceil(total, refsPerBlock)
		table := ceil(blocks, entriesPerTable)
		if blocks == q.refBlocks && table == q.refTable {
			break
		}
		q.refBlocks, q.refTable = blocks, table
	}
	// Data starts on a MiB so that the guest's alignment is the host's too.
	q.dataOffset = ceil(q.tables()*clusterSize, 1<<20) << 20
	q.refBlocks = max(q.refBlocks, ceil(q.dataOffset/clusterSize+q.clusters(), refsPerBlock))
	q.refTable = max(q.refTable, ceil(q.refBlocks, entriesPerTable))
	q.dataOffset = ceil(q.tables()*clusterSize, 1<<20) << 20
	return q
}

func (q *qcow2) clusters() int64 { return q.size / clusterSize }

// tables is the number of clusters of header and tables, in the order of the
// file: header, L1, refcount table, refcount blocks, L2.
func (q *qcow2) tables() int64 { return 1 + q.l1Clusters + q.refTable + q.refBlocks + q.l2Tables }

func (q *qcow2) l1Offset() int64       { return clusterSize }
func (q *qcow2) refTableOffset() int64 { return q.l1Offset() + q.l1Clusters*clusterSize }
func (q *qcow2) refBlockOffset() int64 { return q.refTableOffset() + q.refTable*clusterSize }
func (q *qcow2) l2Offset() int64       { return q.refBlockOffset() + q.refBlocks*clusterSize }

// finish writes the tables for the data that is in f now, and cuts f behind the
// last of it.
func (q *qcow2) finish(f *os.File) error {
	used, err := q.dataClusters(f)
	if err != nil {
		return err
	}
	l2 := make([]byte, q.l2Tables*clusterSize)
	refs := make([]byte, q.refBlocks*clusterSize)
	be := binary.BigEndian
	for i := range q.tables() {
		be.PutUint16(refs[2*i:], 1)
	}
	end := q.dataOffset
	for i, has := range used {
		if !has {
			continue
		}
		at := q.dataOffset + int64(i)*clusterSize
		be.PutUint64(l2[8*i:], uint64(at)|copied)
		be.PutUint16(refs[2*at/clusterSize:], 1)
		end = at + clusterSize
	}
	for offset, table := range map[int64][]byte{
		0:                  q.header(),
		q.l1Offset():       pointers(q.l2Tables, q.l2Offset(), copied),
		q.refTableOffset(): pointers(q.refBlocks, q.refBlockOffset(), 0),
		q.refBlockOffset(): refs,
		q.l2Offset():       l2,
	} {
		if _, err := f.WriteAt(table, offset); err != nil {
			return err
		}
	}
	return f.Truncate(end)
}

// pointers is a table of n entries that point at consecutive clusters.
func pointers(n, first int64, flags uint64) []byte {
	table := make([]byte, 8*n)
	for i := range n {
		binary.BigEndian.PutUint64(table[8*i:], uint64(first+i*clusterSize)|flags)
	}
	return table
}

// dataClusters tells for each cluster of the disk whether f has data there.
func (q *qcow2) dataClusters(f *os.File) ([]bool, error) {
	used := make([]bool, q.clusters())
	for at := q.dataOffset; ; {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return used, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find data: %w", err)
		}
		if at, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("find a hole: %w", err)
		}
		for i := (data - q.dataOffset) / clusterSize; i < ceil(at-q.dataOffset, clusterSize); i++ {
			used[i] = true
		}
	}
}

func (q *qcow2) header() []byte {
	h := make([]byte, headerLength+8) // and an end of header extensions: zeros
	be := binary.BigEndian
	be.PutUint32(h[0:], qcow2Magic)
	be.PutUint32(h[4:], 3)
	be.PutUint32(h[20:], clusterBits)
	be.PutUint64(h[24:], uint64(q.size))
	be.PutUint32(h[36:], uint32(q.l2Tables))
	be.PutUint64(h[40:], uint64(q.l1Offset()))
	be.PutUint64(h[48:], uint64(q.refTableOffset()))
	be.PutUint32(h[56:], uint32(q.refTable))
	be.PutUint32(h[96:], 4) // refcount order: 1<<4 bits
	be.PutUint32(h[100:], headerLength)
	return h
}

// readHeader returns the shape of an image that Pack wrote.
func readHeader(path string) (*qcow2, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := make([]byte, headerLength)
	if _, err := f.ReadAt(h, 0); err != nil {
		return nil, fmt.Errorf("read the qcow2 header: %w", err)
	}
	if binary.BigEndian.Uint32(h) != qcow2Magic {
		return nil, errors.New("no qcow2 image")
	}
	return newQcow2(int64(binary.BigEndian.Uint64(h[24:]))), nil
}
