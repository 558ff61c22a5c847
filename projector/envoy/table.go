package envoy

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/chancery-dev/chancery/projector"
	"github.com/chancery-dev/chancery/projector/ir"
)

// The fields of RouteConfiguration that RouteTable writes by hand.
const (
	tableNameField = 1
	tableHostField = 2
)

// RouteTable assembles a route configuration from virtual hosts that
// VirtualHost wrote: the bytes are those of a whole marshal, at the price of a
// copy. hosts are in the order of the virtual hosts' names, so that equal
// tables have equal bytes. With sentinel the table has one virtual host more,
// which answers SentinelHost(name). maxDirectResponseBytes is Envoy's limit on
// direct responses, 0 for Envoy's own of 4096.
func RouteTable(name string, hosts [][]byte, sentinel bool, maxDirectResponseBytes uint32) projector.Resource {
	tail := &routev3.RouteConfiguration{
		ValidateClusters:               wrapperspb.Bool(false),
		MaxDirectResponseBodySizeBytes: positive32(maxDirectResponseBytes),
	}
	end := must(marshal(tail))
	size := len(name) + len(end) + 2048 // the sentinel is smaller
	for _, h := range hosts {
		size += len(h) + 6
	}
	b := make([]byte, 0, size)
	if name != "" {
		b = protowire.AppendTag(b, tableNameField, protowire.BytesType)
		b = protowire.AppendString(b, name)
	}
	for _, h := range hosts {
		b = protowire.AppendTag(b, tableHostField, protowire.BytesType)
		b = protowire.AppendBytes(b, h)
	}
	if !sentinel {
		return projector.NewResource(name, append(b, end...))
	}
	plain := sha256.New()
	plain.Write(b)
	plain.Write(end)
	host := must(marshal(sentinelHost(name, hex.EncodeToString(plain.Sum(nil)))))
	b = protowire.AppendTag(b, tableHostField, protowire.BytesType)
	b = protowire.AppendBytes(b, host)
	return projector.NewResource(name, append(b, end...))
}

// Routes writes a whole route table: VirtualHost for each host, in order of
// name, and RouteTable.
func Routes(t ir.RouteTable) (projector.Resource, error) {
	order := slices.Clone(t.Hosts)
	slices.SortStableFunc(order, func(a, b ir.VirtualHost) int { return strings.Compare(a.Name, b.Name) })
	hosts := make([][]byte, 0, len(order))
	for _, v := range order {
		b, err := VirtualHost(v)
		if err != nil {
			return projector.Resource{}, fmt.Errorf("route table %s: %w", t.Name, err)
		}
		hosts = append(hosts, b)
	}
	return RouteTable(t.Name, hosts, t.Sentinel, t.MaxDirectResponseBytes), nil
}

// must returns the bytes of a message of ours whose strings are UTF-8 by
// construction: a failure is a bug.
func must(b []byte, err error) []byte {
	if err != nil {
		panic(fmt.Sprintf("marshal a message of our own making: %v", err))
	}
	return b
}

// SentinelName is the name of the sentinel's virtual host.
const SentinelName = "chancery-sentinel"

// sentinelDomain ends the host names of sentinels. RFC 6761 keeps ".invalid"
// out of DNS, so no user's host can be one.
const sentinelDomain = ".sentinel.chancery.invalid"

// SentinelHost returns the host name at which the route table answers with its
// own hash: 16 hexadecimal digits of the SHA-256 of the table's name, and a
// domain that no one can own.
func SentinelHost(table string) string {
	sum := sha256.Sum256([]byte(table))
	return hex.EncodeToString(sum[:8]) + sentinelDomain
}

// sentinelSkips are the filters that could refuse, delay or replace the
// sentinel's answer. The others let a small GET and its answer pass, and each
// name costs its bytes in every table.
var sentinelSkips = []string{luaFilter, rbacFilter, extAuthzFilter, rateLimitFilter}

func sentinelHost(table, body string) *routev3.VirtualHost {
	off := &anypb.Any{
		TypeUrl: typePrefix + string((&routev3.FilterConfig{}).ProtoReflect().Descriptor().FullName()),
		Value:   must(marshal(&routev3.FilterConfig{Disabled: true})),
	}
	skips := map[string]*anypb.Any{}
	for _, name := range sentinelSkips {
		skips[name] = off
	}
	return &routev3.VirtualHost{
		Name:    SentinelName,
		Domains: []string{SentinelHost(table)},
		Routes: []*routev3.Route{{
			Name:                 SentinelName,
			Match:                &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action:               &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 200, Body: inline(body)}},
			TypedPerFilterConfig: skips,
		}},
	}
}

// SentinelBody returns what the sentinel of a route table answers when this
// very version is served: the SHA-256, in hexadecimal, of the configuration
// without the sentinel. It fails if the table has no sentinel.
func SentinelBody(table projector.Resource) (string, error) {
	body := ""
	err := eachField(table.Bytes, func(num protowire.Number, value, _ []byte) error {
		if num != tableHostField || !isSentinel(value) {
			return nil
		}
		v := &routev3.VirtualHost{}
		if err := unmarshal(value, v); err != nil {
			return err
		}
		for _, r := range v.Routes {
			body = r.GetDirectResponse().GetBody().GetInlineString()
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("route table %s: %w", table.Name, err)
	}
	if body == "" {
		return "", fmt.Errorf("route table %s has no sentinel", table.Name)
	}
	return body, nil
}

// isSentinel looks at the name, which a virtual host's bytes begin with.
func isSentinel(virtualHost []byte) bool {
	name := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), SentinelName)
	return bytes.HasPrefix(virtualHost, name)
}

// eachField yields the top fields of a message: value is the content of a
// length-delimited one and nil for others, whole the field with its tag.
func eachField(b []byte, f func(num protowire.Number, value, whole []byte) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("damaged message: %w", protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(num, kind, b[n:])
		if m < 0 {
			return fmt.Errorf("damaged message: %w", protowire.ParseError(m))
		}
		var value []byte
		if kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(b[n:])
		}
		if err := f(num, value, b[:n+m]); err != nil {
			return err
		}
		b = b[n+m:]
	}
	return nil
}
