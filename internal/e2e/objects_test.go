package e2e_test

import (
	"encoding/base64"
	"fmt"
)

// Documents joins YAML documents to the text of one file.
func Documents(documents ...string) string { return join(documents...) }

// Listeners returns the Listeners on 8080 and 8443.
func Listeners() string {
	listener := func(name string, port int, protocol string) string {
		return fmt.Sprintf(`apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: %s, namespace: default}
spec:
  port: %d
  protocol: %s
  securityModel: XFP
  hostBinding: {namespace: {from: ALL}}
`, name, port, protocol)
	}
	return join(listener("http", 8080, "HTTP"), listener("https", 8443, "HTTPS"))
}

// Host returns a Host that routes cleartext too; secret is its certificate's
// name, "" for none.
func Host(name, hostname, secret string) string {
	tls := ""
	if secret != "" {
		tls = fmt.Sprintf("  tlsSecret: {name: %s}\n", secret)
	}
	return fmt.Sprintf(`apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: %s, namespace: default}
spec:
  hostname: %s
%s  requestPolicy: {insecure: {action: Route}}
`, name, hostname, tls)
}

// Mapping returns a Mapping; more are further lines of its spec, without
// indentation.
func Mapping(name, hostname, prefix, service string, more ...string) string {
	text := fmt.Sprintf(`apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: %s, namespace: default}
spec:
  hostname: %s
  prefix: %s
  service: %s
`, name, hostname, prefix, service)
	for _, line := range more {
		text += "  " + line + "\n"
	}
	return text
}

// Service returns a Service with a cluster IP and port 8080.
func Service(name, ip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s, namespace: default}
spec:
  clusterIP: %s
  ports: [{name: http, port: 8080}]
`, name, ip)
}

// TLSSecret returns a Secret with a certificate and its key.
func TLSSecret(name string, cert, key []byte) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Secret
metadata: {name: %s, namespace: default}
type: kubernetes.io/tls
data:
  tls.crt: %s
  tls.key: %s
`, name, base64.StdEncoding.EncodeToString(cert), base64.StdEncoding.EncodeToString(key))
}
