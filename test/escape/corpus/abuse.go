package corpus

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Abuse behaves badly in one way. Some never end by themselves.
func Abuse(kind, amount string) error {
	n, err := strconv.Atoi(amount)
	if err != nil {
		return err
	}
	switch kind {
	case "flood": // n bytes of lines
		return flood(n)
	case "line": // one line of n bytes
		_, err := os.Stdout.Write(append(bytes.Repeat([]byte("x"), n), '\n'))
		return err
	case "files": // n empty files
		return manyFiles(n)
	case "descriptors": // up to n
		return manyDescriptors(n)
	case "burn": // n threads, for ten seconds
		burn(n)
		return nil
	case "memory": // n MiB
		return memory(n)
	case "escape": // a process out of its session and away from its parent, for n seconds
		return doubleFork(n)
	}
	return fmt.Errorf("no kind of abuse is called %q", kind)
}

func flood(n int) error {
	line := append(bytes.Repeat([]byte("flood "), 20), '\n')
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for written := 0; written < n; written += len(line) {
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return w.Flush()
}

func manyFiles(n int) error {
	const perDir = 10000
	for i := range n {
		dir := fmt.Sprintf("/many/%d", i/perDir)
		if i%perDir == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		f, err := os.Create(filepath.Join(dir, strconv.Itoa(i)))
		if err != nil {
			return fmt.Errorf("after %d files: %w", i, err)
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	fmt.Println("made", n)
	return nil
}

func manyDescriptors(n int) error {
	for i := range n {
		if _, err := syscall.Open("/", syscall.O_RDONLY, 0); err != nil {
			fmt.Printf("refused after %d: %v\n", i, err)
			return nil
		}
	}
	fmt.Println("opened", n)
	return nil
}

func burn(n int) {
	var all sync.WaitGroup
	end := time.Now().Add(10 * time.Second)
	fmt.Println("burning")
	for range n {
		all.Go(func() {
			for x := 0; time.Now().Before(end); x++ {
				_ = x * x
			}
		})
	}
	all.Wait()
}

func memory(mib int) error {
	var held [][]byte
	for range mib {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Println("held", len(held))
	return nil
}

// doubleFork leaves a process that has neither group, session nor parent of
// this one and holds its pipes, and does not end itself.
func doubleFork(seconds int) error {
	inner := exec.Command("/bin/sh", "-c", fmt.Sprintf("sleep %d & echo left", seconds))
	inner.Stdout, inner.Stderr = os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := inner.Run(); err != nil {
		return err
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	return nil
}
