package fake

import "context"

// Guest is the guest daemon of simulated sandboxes: it only exists. Commands
// and files go through GuestClient, without a wire.
func Guest(ctx context.Context, _ *Machine) error {
	<-ctx.Done()
	return nil
}
