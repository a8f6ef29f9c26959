package microstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/y"
	"google.golang.org/protobuf/proto"

	"github.com/millrace/millrace/internal/failpoint"
)

// checkFiles looks at the files of a store before Badger does, which takes some losses for granted:
//
//   - A journal (*.mem) is replayed up to the first entry that is torn or does not match its checksum, and the
//     rest dropped. For the newest one that is right: the store goes back to an earlier commit, state and
//     position together, as after a power loss (a killed process leaves whole entries). But when an older file
//     has lost its end, commits after the hole survive in newer ones: a state that never was.
//   - A list of tables (MANIFEST) that is cut, or missing, is used as far as it goes, and the tables it does
//     not name are deleted.
//   - A table (*.sst) that is cut ends the process with a panic.
//
// Commits are numbered without gaps. The newest number of the tables, the first and last of each journal, and
// the seal that Close leaves must follow one another; so whatever is missing before something else shows. Every
// commit writes one key that is never deleted (commitKey), or compaction could drop the newest number.
//
// It returns the newest commit number of the tables, and that of all, and how large a memtable the journals need.
func checkFiles(dir string) (tables, newest uint64, memory int64, err error) {
	if err := checkPresent(dir); err != nil {
		return 0, 0, 0, err
	}
	if tables, err = newestInTables(dir); err != nil {
		return 0, 0, 0, err
	}
	if newest, memory, err = checkJournals(dir, tables); err != nil {
		return 0, 0, 0, err
	}
	sealed, err := readSeal(dir)
	if err == nil && newest < sealed {
		err = fmt.Errorf("the store was closed with commit %d, the newest there is %d", sealed, newest)
	}
	return tables, newest, memory, err
}

// checkJournals checks that the journals go on where the tables end, and returns the newest commit number and what the
// largest journal takes in a memtable.
func checkJournals(dir string, last uint64) (newest uint64, memory int64, err error) {
	journals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return 0, 0, err
	}
	slices.Sort(journals)
	for _, path := range journals {
		data, err := os.ReadFile(path)
		if err != nil {
			return 0, 0, err
		}
		first, end, takes, err := journalRange(data)
		if err != nil {
			return 0, 0, fmt.Errorf("journal %s: %w", filepath.Base(path), err)
		}
		memory = max(memory, takes)
		if first == 0 {
			continue // nothing was committed to it
		}
		if last != 0 && first > last+1 {
			return 0, 0, fmt.Errorf("journal %s begins with commit %d, what is before it ends with %d", filepath.Base(path), first, last)
		}
		last = max(last, end)
	}
	return last, memory, nil
}

// fillEmpty gives journals and value log files of no length the header that Badger wants of a file that is there.
// A killed process leaves such files, since Badger makes a file and then sets its length, and cuts a file to
// nothing before it removes it; on finding one, Badger refuses to open. Nothing that counts was in them.
func fillEmpty(dir string) error {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, path := range files {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if info.Size() > 0 {
				continue
			}
			if err := os.Truncate(path, journalHeader); err != nil {
				return err
			}
		}
	}
	return nil
}

const sealName = "store.seal"

// seal leaves the number of the newest commit behind when a store is closed. A store without one has been
// killed, and has a journal. It appears whole or not at all, or a kill at this moment would look like damage.
func (s *Store) seal() error { return seal(s.cfg.Dir, s.db.MaxVersion()) }

func seal(dir string, newest uint64) error {
	path := filepath.Join(dir, sealName)
	file, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = failpoint.Hit("store.seal"); err == nil {
		_, err = file.WriteString(strconv.FormatUint(newest, 10) + "\n")
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// sealEmpty seals a store whose journals hold nothing that is not in tables, until it is open: Badger removes such before it
// makes a new one, and who is killed between leaves none. With commits in them it does not, and a seal would make damage of
// what a power loss may take back.
func sealEmpty(dir string, tables, newest uint64) error {
	if newest > tables || !present(dir, "*.mem") {
		return nil
	}
	return seal(dir, newest)
}

func (s *Store) breakSeal() error {
	err := os.Remove(filepath.Join(s.cfg.Dir, sealName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// dropPrefix removes everything with a prefix. Called in the committer. Badger has no journal for a moment
// meanwhile, so the store is sealed until it is done.
func (s *Store) dropPrefix(prefixes ...[]byte) error {
	if s.cfg.InMemory {
		return s.db.DropPrefix(prefixes...)
	}
	if err := s.seal(); err != nil {
		return err
	}
	if err := s.db.DropPrefix(prefixes...); err != nil {
		return err
	}
	return s.breakSeal()
}

func readSeal(dir string) (uint64, error) {
	data, err := os.ReadFile(filepath.Join(dir, sealName))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	newest, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s does not hold a number", sealName)
	}
	return newest, nil
}

// checkPresent finds a directory that has some of a store's files, but not those that every store has.
func checkPresent(dir string) error {
	if !present(dir, "*.sst") && !present(dir, "*.vlog") && !present(dir, "*.mem") && !present(dir, sealName) {
		return nil // empty, or not a store: Badger and the format tell
	}
	if info, err := os.Stat(filepath.Join(dir, badger.ManifestFilename)); err != nil || info.Size() == 0 {
		return fmt.Errorf("the list of tables (%s) is missing", badger.ManifestFilename)
	}
	if !present(dir, "*.mem") && !present(dir, sealName) {
		return errors.New("the journal of the newest commits (*.mem) is missing")
	}
	return nil
}

func present(dir, pattern string) bool {
	files, _ := filepath.Glob(filepath.Join(dir, pattern))
	return len(files) > 0
}

// newestInTables returns the newest commit number in the tables that count.
func newestInTables(dir string) (newest uint64, err error) {
	file, err := os.Open(filepath.Join(dir, badger.ManifestFilename))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer file.Close()
	manifest, _, err := badger.ReplayManifestFile(file, 0, badger.DefaultOptions(dir))
	if err != nil {
		return 0, err
	}
	for id := range manifest.Tables {
		name := fmt.Sprintf("%06d.sst", id)
		version, err := newestInTable(filepath.Join(dir, name))
		if err != nil {
			return 0, fmt.Errorf("table %s: %w", name, err)
		}
		newest = max(newest, version)
	}
	return newest, nil
}

// newestInTable reads the index at the end of a table: index, its length(4), its checksum, whose length(4).
func newestInTable(path string) (uint64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	at := info.Size()
	take := func(size int64) ([]byte, error) {
		if at -= size; at < 0 {
			return nil, errors.New("it is cut off")
		}
		part := make([]byte, size)
		_, err := file.ReadAt(part, at)
		return part, err
	}
	takeSized := func() ([]byte, error) {
		size, err := take(4)
		if err != nil {
			return nil, err
		}
		return take(int64(binary.BigEndian.Uint32(size)))
	}
	sum, err := takeSized()
	if err != nil {
		return 0, err
	}
	var expected pb.Checksum
	if err := proto.Unmarshal(sum, &expected); err != nil || expected.Sum == 0 {
		return 0, errors.New("its end is not that of a table")
	}
	index, err := takeSized()
	if err != nil {
		return 0, err
	}
	if err := y.VerifyChecksum(index, &expected); err != nil {
		return 0, err
	}
	return fb.GetRootAsTableIndex(index, 0).MaxVersion(), nil
}
