package fake

import "context"

// Guest is the guest daemon of simulated sandboxes: it only exists. A
// test's client of it works on the Machine, without a wire.
func Guest(ctx context.Context, _ *Machine) error {
	<-ctx.Done()
	return nil
}
