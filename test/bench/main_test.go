package bench

import (
	"testing"

	"github.com/lehr-dev/lehr/test/world"
)

func TestMain(m *testing.M) { world.Main(m) }
