package envoy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

func TestLiveAnswersReadBack(t *testing.T) {
	endpoints := ir.Endpoints{Name: "east/shop/web/80", Addresses: []ir.Endpoint{
		{IP: "10.0.0.1", Port: 8080, Zone: "a"}, {IP: "10.0.0.2", Port: 8080, Zone: "a", Draining: true}, {IP: "10.0.1.1", Port: 8080, Zone: "b"},
	}}
	r, err := envoy.Endpoints(endpoints)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := envoy.ReadEndpoints(r); err != nil || cmp.Diff(endpoints, got) != "" {
		t.Errorf("endpoints read back: %v, %s", err, cmp.Diff(endpoints, got))
	}
	for _, want := range []struct {
		secret ir.Secret
		use    ir.SecretUse
	}{
		{ir.Secret{Name: "east/shop/cert/certificate", Chain: []byte("chain"), Key: []byte("key")}, ir.UseCertificate},
		{ir.Secret{Name: "east/shop/ca/ca", CA: []byte("anchors"), CRL: []byte("crl")}, ir.UseCA},
	} {
		r, err := envoy.Secret(want.secret, want.use)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := envoy.ReadSecret(r); err != nil || cmp.Diff(want.secret, got) != "" {
			t.Errorf("secret read back: %v, differs", err)
		}
	}
	r.Bytes = []byte("\xff")
	if _, err := envoy.ReadEndpoints(r); err == nil {
		t.Error("damaged endpoints read without an error")
	}
	if _, err := envoy.ReadSecret(r); err == nil {
		t.Error("a damaged secret read without an error")
	}
}
