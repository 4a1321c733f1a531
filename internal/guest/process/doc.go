// Package process starts the commands of a sandbox and owns their pipes.
//
// A process belongs to the sandbox, not to who started it: clients subscribe to
// its output and may go and come back. Output is handed on as it arrives and
// bounded at every point:
//
//   - While somebody is subscribed, full queues (128 KiB) stop the reading of
//     the pipe and so, in time, the process itself: back-pressure, no loss. Of
//     several subscribers the first sets the pace; another one that falls 1 MiB
//     behind it loses its subscription and is told so, and the first one does
//     when it takes nothing for 10 s while others could.
//   - While nobody is, the process is never blocked: the newest 64 KiB are kept
//     and handed to the next subscriber, once; older output is dropped.
//
// A process with a terminal has one stream, Terminal, and its descriptors are
// all the terminal, which is its controlling one.
//
// Output ends when the process has ended and its pipes are either closed or,
// where something it left behind still holds them, silent for a moment; what
// is written later is read and thrown away, so that the writer lives on.
package process
