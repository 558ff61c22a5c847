package compile

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/chancery-dev/chancery/projector/emissary"
	"github.com/chancery-dev/chancery/projector/envoy"
	"github.com/chancery-dev/chancery/projector/ir"
)

// A virtual host of ten thousand routes is written by putting together what
// its groups were written as: one changed group costs one group's writing and
// a copy of the rest. What a group is written as is a function of the group and
// of a variant, kept until the group changes.

// virtualHostRoutes is the number of the field routes in Envoy's VirtualHost.
const virtualHostRoutes = 3

// variant is what of an attachment shows in a group's routes.
type variant struct {
	model, action                 string
	tls, trusted, unauthenticated bool
}

// pieces is what one group was written as, by variant.
type pieces struct {
	group  *emissary.Group
	routes map[variant]piece
}

type piece struct {
	bytes []byte // the field routes, with its tags
	n     int    // of the routes
	err   error
}

// piece writes a group's routes for an attachment.
func (c *Compiler) piece(a emissary.Attachment, g *emissary.Group) (piece, error) {
	k := named{g.Cluster, g.ID}
	p := c.pieces[k]
	if p == nil || p.group != g {
		p = &pieces{group: g, routes: map[variant]piece{}}
		c.pieces[k] = p
	}
	v := variant{a.Model, a.Host.Action, a.TLS, a.Trusted, a.Unauthenticated}
	one, ok := p.routes[v]
	if !ok {
		host := a.VirtualHost([]*emissary.Group{g})
		b, err := envoy.VirtualHost(ir.VirtualHost{Name: "piece", Domains: []string{"piece"}, Routes: host.Routes})
		if err == nil {
			_, b, _ = split(b)
		}
		one = piece{b, len(host.Routes), err}
		p.routes[v] = one
	}
	return one, one.err
}

// split cuts a marshalled VirtualHost into what stands before the routes, the
// routes and what stands after.
func split(b []byte) (before, routes, after []byte) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			panic(broken("a virtual host that was just written cannot be read"))
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			panic(broken("a virtual host that was just written cannot be read"))
		}
		field := b[:n+m]
		b = b[n+m:]
		switch {
		case num < virtualHostRoutes:
			before = append(before, field...)
		case num == virtualHostRoutes:
			routes = append(routes, field...)
		default:
			after = append(after, field...)
		}
	}
	return before, routes, after
}

// assemble writes a virtual host of groups. Groups that cannot be written are
// left out and returned with why.
func (c *Compiler) assemble(a emissary.Attachment, groups []*emissary.Group) (row vhostRow, bad map[*emissary.Group]error, err error) {
	v := a.VirtualHost(nil)
	row = vhostRow{name: v.Name, routes: len(v.Routes)}
	frame, err := envoy.VirtualHost(v)
	if err != nil {
		return row, nil, err
	}
	before, _, after := split(frame)
	written := make([][]byte, 0, len(groups))
	size := len(frame)
	for _, g := range groups {
		p, err := c.piece(a, g)
		if err != nil {
			if bad == nil {
				bad = map[*emissary.Group]error{}
			}
			bad[g] = err
			continue
		}
		written = append(written, p.bytes)
		size += len(p.bytes)
		row.routes += p.n
	}
	b := make([]byte, 0, size)
	b = append(b, before...)
	for _, p := range written {
		b = append(b, p...)
	}
	row.bytes = append(b, after...)
	return row, bad, nil
}
