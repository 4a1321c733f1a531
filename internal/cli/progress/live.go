package progress

import (
	"sync"
	"time"

	lehrv1 "github.com/lehr-dev/lehr/api/gen/lehr/v1"
)

// frameTime is the least time between two drawings.
const frameTime = time.Second / 15

// live is the display of TTY. Events change the model and never wait for the
// terminal; one goroutine draws, however many events there are.
type live struct {
	o     Options
	view  View
	stop  chan struct{}
	drawn chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	model  *Model
	failed *Failure
	err    error // of the terminal
	closed bool

	screen screen // owned by the goroutine
}

func newLive(o Options) *live {
	d := &live{
		o: o, view: View{style: o.Terminal.style()}, model: NewModel(o.Usual, o.Text),
		screen: screen{out: o.Out}, stop: make(chan struct{}), drawn: make(chan struct{}),
	}
	d.model.interruptible = o.Interruptible
	go d.run()
	return d
}

func (d *live) run() {
	defer close(d.drawn)
	tick := time.NewTicker(frameTime)
	defer tick.Stop()
	for {
		d.draw(false)
		select {
		case <-tick.C:
		case <-d.stop:
			d.draw(true)
			return
		}
	}
}

// draw makes a frame under mu and writes it outside of it.
func (d *live) draw(last bool) {
	width, height := d.size()
	d.mu.Lock()
	var settled, live []string
	for _, it := range d.model.Take() {
		settled = append(settled, d.view.Settled(it, width)...)
	}
	if last && d.failed != nil {
		settled = append(settled, d.failed.text(!d.shows(*d.failed))...)
	}
	if !last {
		live = d.view.Live(d.model, d.o.Now(), width, min(height-2, mostRunning+outputLines+2))
	}
	d.mu.Unlock()
	if err := d.screen.draw(settled, live, width, height); err != nil {
		d.mu.Lock()
		d.err = err
		d.mu.Unlock()
	}
}

// size is that of the terminal, less the last column: a line that fills it
// makes some terminals wrap.
func (d *live) size() (width, height int) {
	width, height = d.o.Terminal.Size()
	if width <= 0 {
		width = 80
	}
	if height <= 0 {
		height = 24
	}
	return max(width-1, 1), height
}

// shows reports whether what the failure quotes of the output stands right
// above it.
func (d *live) shows(f Failure) bool { return f.Code == "step_failed" || f.Code == "start_failed" }

func (d *live) Line(l *lehrv1.LogLine) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.Line(l, d.o.Now())
	return d.err
}

func (d *live) State(b *lehrv1.Build) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.State(b, d.o.Now())
}

func (d *live) Note(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.Note(text)
}

func (d *live) Cancelling(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.Note(text)
	d.model.cancelling = true
}

func (d *live) States() bool { return true }

func (d *live) Failed(f Failure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = &f
}

func (d *live) Close() {
	d.mu.Lock()
	was := d.closed
	d.closed = true
	d.mu.Unlock()
	if !was {
		close(d.stop)
	}
	<-d.drawn
}
