package ident

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
)

// Path is the running fingerprint of the steps that made an event another event. Zero: none yet.
type Path uint64

// Step folds a step's fingerprint into the path. The order of steps counts; the result is never zero.
func (p Path) Step(step uint64) Path {
	// Path and step go in by different factors, and with a constant: nothing that they have in common cancels out.
	h := uint64(p)*0x9E3779B97F4A7C15 + step*0xD6E8FEB86659FD93 + 0xA0761D6478BD642F
	h ^= h >> 29
	h *= 0xBF58476D1CE4E5B9
	h ^= h >> 32
	if h == 0 {
		h = 1
	}
	return Path(h)
}

// Fingerprint is the stable 64-bit name of a node: the same in every process and release.
func Fingerprint(parts ...string) uint64 {
	h := sha256.New()
	var n [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return binary.BigEndian.Uint64(h.Sum(nil))
}

// Key folds an event's key into the path, by FNV-1a.
func (p Path) Key(key string) Path {
	hash := uint64(14695981039346656037)
	for i := range len(key) {
		hash = (hash ^ uint64(key[i])) * 1099511628211
	}
	return p.Step(hash)
}

// One derives the id of an event that was made from one other along a path of steps.
func One(path Path, id string) string {
	var buf [128]byte
	b := binary.BigEndian.AppendUint64(buf[:0], uint64(path))
	b = append(b, id...)
	return format(sha256.Sum256(b))
}

// Many derives the id of the index-th event that a step made from several causes. The order in which
// the causes are given does not matter, nor does giving one twice; which they are does.
func Many(path Path, index int, ids ...string) string {
	var few [4]string
	sorted := append(few[:0], ids...)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	var buf [256]byte
	b := binary.BigEndian.AppendUint64(buf[:0], uint64(path))
	b = binary.BigEndian.AppendUint64(b, uint64(index))
	for _, id := range sorted {
		b = binary.BigEndian.AppendUint32(b, uint32(len(id)))
		b = append(b, id...)
	}
	return format(sha256.Sum256(b))
}

func format(sum [32]byte) string {
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	var out [36]byte
	hex.Encode(out[0:8], sum[0:4])
	out[8] = '-'
	hex.Encode(out[9:13], sum[4:6])
	out[13] = '-'
	hex.Encode(out[14:18], sum[6:8])
	out[18] = '-'
	hex.Encode(out[19:23], sum[8:10])
	out[23] = '-'
	hex.Encode(out[24:36], sum[10:16])
	return string(out[:])
}
