package pki

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// ClientConfig is how the command line reaches the API.
type ClientConfig struct {
	Server      string // URL, https://host:port
	Credentials Credentials
}

// clientFile is the file's form. Of each pair one is set; paths are relative
// to the file.
type clientFile struct {
	Server   string `json:"server"`
	CA       string `json:"ca,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
	Cert     string `json:"cert,omitempty"`
	CertFile string `json:"certFile,omitempty"`
	Key      string `json:"key,omitempty"`
	KeyFile  string `json:"keyFile,omitempty"`
}

// WriteClientConfig writes the file with mode 0600, the key in it.
func WriteClientConfig(path string, c ClientConfig) error {
	if err := checkServer(c.Server); err != nil {
		return fmt.Errorf("client config %s: %w", path, err)
	}
	b, err := yaml.Marshal(clientFile{
		Server: c.Server, CA: string(c.Credentials.CA), Cert: string(c.Credentials.Cert), Key: string(c.Credentials.Key),
	})
	if err != nil {
		return fmt.Errorf("client config %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("client config: %w", err)
	}
	return writeFile(path, b)
}

// ReadClientConfig reads what WriteClientConfig, or a person, wrote, and
// checks that its parts belong to each other.
func ReadClientConfig(path string) (ClientConfig, error) {
	b, err := readPrivate(path, anyoneElse)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ClientConfig{}, fmt.Errorf("client config: %w; start chancery serve on that data directory, or name another with --data or --server", err)
	case err != nil:
		return ClientConfig{}, fmt.Errorf("client config: %w", err)
	}
	fail := func(err error) error {
		return fmt.Errorf("client config %s: %w; correct it, or remove it and restart chancery serve, which writes it", path, err)
	}
	var f clientFile
	if yaml.UnmarshalStrict(b, &f) != nil {
		// What the parser says may quote the key.
		return ClientConfig{}, fail(fmt.Errorf("%w: not YAML with only server, ca, cert, key, or caFile, certFile, keyFile", ErrDamaged))
	}
	c := ClientConfig{Server: f.Server}
	if err := checkServer(c.Server); err != nil {
		return ClientConfig{}, fail(err)
	}
	for _, part := range []struct {
		name, inline, file string
		into               *[]byte
		read               func(string) ([]byte, error)
	}{
		{"ca", f.CA, f.CAFile, &c.Credentials.CA, readFile},
		{"cert", f.Cert, f.CertFile, &c.Credentials.Cert, readFile},
		{"key", f.Key, f.KeyFile, (*[]byte)(&c.Credentials.Key), func(p string) ([]byte, error) { return readPrivate(p, anyoneElse) }},
	} {
		switch {
		case (part.inline == "") == (part.file == ""):
			return ClientConfig{}, fail(fmt.Errorf("it wants one of %s and %sFile", part.name, part.name))
		case part.inline != "":
			*part.into = []byte(part.inline)
		default:
			if !filepath.IsAbs(part.file) {
				part.file = filepath.Join(filepath.Dir(path), part.file)
			}
			if *part.into, err = part.read(part.file); err != nil {
				return ClientConfig{}, fail(err)
			}
		}
	}
	if _, err := c.Credentials.parse(); err != nil {
		return ClientConfig{}, fail(err)
	}
	return c, nil
}

func checkServer(server string) error {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return fmt.Errorf("server %q is not a URL https://host:port", server)
	}
	return nil
}

// Hold returns a keeper of credentials that do not change, such as those of
// one run of the command line.
func Hold(c Credentials, now func() time.Time) (*Keeper, error) {
	k := &Keeper{now: now, next: func(*parsed, time.Time) (Credentials, error) { return c, nil }}
	if _, err := k.Check(); err != nil {
		return nil, fmt.Errorf("credentials: %w", err)
	}
	return k, nil
}
