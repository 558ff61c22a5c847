package compile

import "github.com/chancery-dev/chancery/projector"

// SetFault makes the reading of a version of an object call f first, which may panic.
func (c *Compiler) SetFault(f func(*projector.Object)) { c.fault = f }

// Rows counts everything that the compiler holds in its tables, rows that were
// looked up and are missing included.
func (c *Compiler) Rows() int {
	t := &c.t
	return len(t.settings.rows) + len(t.slots.rows) + len(t.findings.rows) + len(t.states.rows) + len(t.services.rows) + len(t.secrets.rows) +
		len(t.ids.rows) + len(t.presence.rows) + len(t.mapUnits.rows) + len(t.hostUnits.rows) + len(t.mappings.rows) + len(t.groups.rows) +
		len(t.hosts.rows) + len(t.listeners.rows) + len(t.bounds.rows) + len(t.attachments.rows) + len(t.vhosts.rows) + len(t.chains.rows) +
		len(t.upstreamUses.rows) + len(t.resources.rows) + len(t.patterns.rows) + len(t.contexts.rows) + len(t.auth.rows) + len(t.module.rows) + len(t.rateLimits.rows)
}
