package main

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ownTime is the processor time of this process.
func ownTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// server is a PostgreSQL server on this machine; 0: it is not, or cannot be told.
type server int

// findServer looks for the process that serves a connection, by its number, which in a container is another one than here.
func findServer(ctx context.Context, db *sql.DB) (server, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	var pid int
	if err := conn.QueryRowContext(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		return 0, err
	}
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return 0, err
	}
	var found []server
	for _, file := range files {
		status := map[string]string{}
		text, _ := os.ReadFile(file) // it may have ended
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			status[name] = strings.TrimSpace(value)
		}
		numbers := strings.Fields(status["NSpid"])
		if status["Name"] != "postgres" || len(numbers) == 0 || numbers[len(numbers)-1] != strconv.Itoa(pid) {
			continue
		}
		if parent, err := strconv.Atoi(status["PPid"]); err == nil {
			found = append(found, server(parent))
		}
	}
	if len(found) != 1 {
		return 0, nil
	}
	return found[0], nil
}

// time is the processor time of the server and of all that it has started.
func (s server) time() time.Duration {
	if s == 0 {
		return 0
	}
	total := ticks(int(s), true)
	children, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s))
	for _, file := range children {
		text, _ := os.ReadFile(file)
		for _, child := range strings.Fields(string(text)) {
			pid, _ := strconv.Atoi(child)
			total += ticks(pid, false)
		}
	}
	return time.Duration(total) * (time.Second / 100) // USER_HZ
}

// ticks reads a process's time, with or without that of its children that have ended.
func ticks(pid int, children bool) (total int64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:]) // the name may hold spaces
	end := 13
	if children {
		end = 15
	}
	for i := 11; i < end && i < len(fields); i++ { // utime, stime, cutime, cstime
		n, _ := strconv.ParseInt(string(fields[i]), 10, 64)
		total += n
	}
	return total
}
