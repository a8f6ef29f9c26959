package pgtail_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/millrace/millrace/internal/testenv/services"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(services.Main(m)) }
