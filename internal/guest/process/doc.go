// Package process starts the commands of a sandbox and owns their pipes.
//
// A process belongs to the sandbox, not to who started it: clients subscribe to
// its output and may go and come back. Output is handed on as it arrives and
// bounded at every point:
//
//   - While somebody is subscribed, a full queue (128 KiB) stops the reading of
//     the pipe and so, in time, the process itself: back-pressure, no loss.
//   - While nobody is, the process is never blocked: the newest 64 KiB are kept
//     and handed to the next subscriber, once; older output is dropped.
//
// Output ends when the process has ended and its pipes are either closed or,
// where something it left behind still holds them, silent for a moment; what
// is written later is read and thrown away, so that the writer lives on.
package process
