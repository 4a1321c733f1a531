// Package pause makes the program that holds a sandbox open before a template
// is in it: an ELF file of one page that ignores the ends of its children, so that
// the kernel reaps them, writes one limit of the sandbox into a control file, and
// waits for ever. Started again beside itself it gives the sandbox its host name.
//
// It is generated rather than compiled: nothing that has to be built with
// another toolchain, embedded, or trusted as a blob.
package pause

import (
	"bytes"
	"encoding/binary"
	"runtime"

	"github.com/lehr-dev/lehr/internal/errs"
)

// Addresses and sizes of the single segment, which maps the whole file.
const (
	loadAddress   = 0x400000
	headerSize    = 64 // ELF64 file header
	programHeader = 56 // ELF64 program header
	pageSize      = 0x1000
)

// header is the ELF64 file header, in the order of the format.
type header struct {
	Ident              [16]byte
	Type, Machine      uint16
	Version            uint32
	Entry              uint64
	ProgramHeaders     uint64
	SectionHeaders     uint64
	Flags              uint32
	Size               uint16
	ProgramHeaderSize  uint16
	ProgramHeaderCount uint16
	SectionHeaderSize  uint16
	SectionHeaderCount uint16
	SectionNames       uint16
}

// segment is the ELF64 program header, in the order of the format.
type segment struct {
	Type, Flags              uint32
	Offset, Virtual, Phys    uint64
	FileSize, MemSize, Align uint64
}

// amd64Code is the program. Its arguments are on the stack.
//
//	pause NAME
//
// takes NAME as the host name of its namespace and ends.
//
//	pause FOLDER FILE TEXT
//
// ignores SIGCHLD, makes FOLDER (where it is not there), writes TEXT into FILE,
// and waits for ever: pause returns only after a handler ran, and there is none;
// the loop is for stop and continue. What fails ends with exit status 1.
var amd64Code = []byte{
	0x48, 0x83, 0x3c, 0x24, 0x02, // cmp [rsp],0x2
	0x74, 0x75, // je name
	0x48, 0x83, 0x3c, 0x24, 0x04, // cmp [rsp],0x4
	0x0f, 0x85, 0x8e, 0x00, 0x00, 0x00, // jne fail
	0xb8, 0x0d, 0x00, 0x00, 0x00, // mov eax, SYS_rt_sigaction
	0xbf, 0x11, 0x00, 0x00, 0x00, // mov edi,0x11
	0x48, 0x8d, 0x35, 0x96, 0x00, 0x00, 0x00, // lea rsi,[rip+action]
	0x31, 0xd2, // xor edx,edx
	0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d,0x8
	0x0f, 0x05, // syscall
	0xb8, 0x53, 0x00, 0x00, 0x00, // mov eax, SYS_mkdir
	0x48, 0x8b, 0x7c, 0x24, 0x10, // mov rdi,[rsp+0x10]
	0xbe, 0xed, 0x01, 0x00, 0x00, // mov esi,0x1ed
	0x0f, 0x05, // syscall
	0xb8, 0x02, 0x00, 0x00, 0x00, // mov eax, SYS_open
	0x48, 0x8b, 0x7c, 0x24, 0x18, // mov rdi,[rsp+0x18]
	0xbe, 0x01, 0x00, 0x00, 0x00, // mov esi,0x1
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax,eax
	0x78, 0x4d, // js fail
	0x89, 0xc3, // mov ebx,eax
	0x48, 0x8b, 0x74, 0x24, 0x20, // mov rsi,[rsp+0x20]
	0xe8, 0x4d, 0x00, 0x00, 0x00, // call len
	0x89, 0xdf, // mov edi,ebx
	0xb8, 0x01, 0x00, 0x00, 0x00, // mov eax, SYS_write
	0x0f, 0x05, // syscall
	0x39, 0xd0, // cmp eax,edx
	0x75, 0x34, // jne fail
	0xb8, 0x03, 0x00, 0x00, 0x00, // mov eax, SYS_close
	0x0f, 0x05, // syscall
	0xb8, 0x22, 0x00, 0x00, 0x00, // hold: mov eax, SYS_pause
	0x0f, 0x05, // syscall
	0xeb, 0xf7, // jmp hold
	0x48, 0x8b, 0x74, 0x24, 0x10, // name: mov rsi,[rsp+0x10]
	0xe8, 0x26, 0x00, 0x00, 0x00, // call len
	0x48, 0x89, 0xf7, // mov rdi,rsi
	0x48, 0x89, 0xd6, // mov rsi,rdx
	0xb8, 0xaa, 0x00, 0x00, 0x00, // mov eax, SYS_sethostname
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax,eax
	0x75, 0x09, // jne fail
	0xb8, 0x3c, 0x00, 0x00, 0x00, // mov eax, SYS_exit
	0x31, 0xff, // xor edi,edi
	0x0f, 0x05, // syscall
	0xb8, 0x3c, 0x00, 0x00, 0x00, // fail: mov eax, SYS_exit
	0xbf, 0x01, 0x00, 0x00, 0x00, // mov edi,0x1
	0x0f, 0x05, // syscall
	0x31, 0xd2, // len: xor edx,edx
	0x80, 0x3c, 0x16, 0x00, // next: cmp [rsi+rdx*1],0x0
	0x74, 0x04, // je found
	0xff, 0xc2, // inc edx
	0xeb, 0xf6, // jmp next
	0xc3, // found: ret
	// action: handler SIG_IGN, flags SA_NOCLDWAIT, no restorer, empty mask
	0x01, 0, 0, 0, 0, 0, 0, 0,
	0x02, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0, 0, 0, 0, 0,
}

const (
	typeExecutable = 2
	machineAMD64   = 62
	segmentLoad    = 1
	readExecute    = 5
)

// Program returns the pause program for this machine's architecture. With three
// arguments (a folder to make, a file to write, the text to write into it) it
// pauses after that; with one it sets the host name and ends. Errors:
// Unsupported on any architecture but amd64.
func Program() ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		return nil, errs.New(errs.Unsupported, "there is no pause program for %s", runtime.GOARCH).
			WithRemedy("run the engine on an amd64 machine")
	}
	const start = headerSize + programHeader
	const size = pageSize
	head := header{
		Ident:              [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, // 64 bit, little endian, version 1
		Type:               typeExecutable,
		Machine:            machineAMD64,
		Version:            1,
		Entry:              loadAddress + start,
		ProgramHeaders:     headerSize,
		Size:               headerSize,
		ProgramHeaderSize:  programHeader,
		ProgramHeaderCount: 1,
	}
	load := segment{
		Type: segmentLoad, Flags: readExecute,
		Virtual: loadAddress, Phys: loadAddress,
		FileSize: size, MemSize: size, Align: pageSize,
	}
	var file bytes.Buffer
	// A full page: a shorter file may be stored inside its inode in an EROFS
	// image, where gVisor cannot map it for execution.
	body := make([]byte, size-start)
	copy(body, amd64Code)
	for _, part := range []any{head, load, body} {
		// Writing fixed-size values to a buffer cannot fail.
		_ = binary.Write(&file, binary.LittleEndian, part)
	}
	return file.Bytes(), nil
}
