package cache

import (
	"github.com/chancery-dev/chancery/projector"
)

// numTypes counts the resource types, each of which is a lane of a stream.
const numTypes = int(projector.SecretNeeds) + 1

// Lane is what the order of a stream depends on, for one resource type.
type Lane struct {
	// Open says that the client asked for the type.
	Open bool
	// Ready says that the client waits for news: everything sent was answered.
	Ready bool
	// Behind says that additions or changes are to be sent.
	Behind bool
	// Lingering says that the client has resources that are to be removed.
	Lingering bool
}

// Facts is what the order of a stream depends on.
type Facts struct {
	Lanes [numTypes]Lane // by projector.ResourceType
	// WaitedEnough says that the upstreams have been unanswered for longer than
	// the stream is to be held up by an upstream that does not get warm.
	WaitedEnough bool
}

// Send is one thing that a stream may send.
type Send struct {
	Type projector.ResourceType
	// Removals sends what lingers; otherwise additions and changes are sent
	// (of listeners the removals as well: nothing refers to a listener).
	Removals bool
}

// Step is what a stream may do next.
type Step struct {
	Send []Send
	// Settled says that the stream may turn to another generation: upstreams,
	// listeners and routes were sent and answered. What still lingers is kept
	// for later. Endpoints and secrets, which may change without end, and
	// upstreams that were waited for long enough, do not hold it up.
	Settled bool
}

// Next returns what a stream may do next. It is the whole of the order in
// which an Envoy gets a generation, make before break:
//
//  1. upstreams that are new or changed; endpoints and secrets at any time, for
//     they are only sent to those who asked;
//  2. once the upstreams are acknowledged, which an Envoy does when none is
//     warming any more, the listeners and then the routes;
//  3. once the routes are acknowledged, removals, of routes and then of
//     upstreams, so that no route ever refers to an upstream that is gone.
//
// A type that the client never asked for holds up nothing.
func Next(f Facts) Step {
	var step Step
	done := func(t projector.ResourceType) bool {
		l := f.Lanes[t]
		return !l.Open || l.Ready && !l.Behind
	}
	may := func(t projector.ResourceType) {
		if l := f.Lanes[t]; l.Open && l.Ready && l.Behind {
			step.Send = append(step.Send, Send{Type: t})
		}
	}
	may(projector.Upstreams)
	may(projector.EndpointNeeds)
	may(projector.SecretNeeds)

	upstreams := f.Lanes[projector.Upstreams]
	if !done(projector.Upstreams) && (upstreams.Behind || !f.WaitedEnough) {
		return step
	}
	may(projector.Listeners)
	if f.Lanes[projector.Listeners].Behind && f.Lanes[projector.Listeners].Open {
		return step // the routes follow the listeners in the same breath, never before
	}
	may(projector.Routes)
	if !done(projector.Listeners) || !done(projector.Routes) {
		return step
	}
	step.Settled = true
	for _, t := range []projector.ResourceType{
		projector.Routes, projector.Upstreams, projector.EndpointNeeds, projector.SecretNeeds,
	} {
		l := f.Lanes[t]
		if !l.Open || !l.Lingering {
			continue
		}
		if l.Ready && !l.Behind {
			step.Send = append(step.Send, Send{Type: t, Removals: true})
			step.Settled = false
			if t == projector.Routes {
				return step // they too refer to upstreams
			}
		}
	}
	return step
}
