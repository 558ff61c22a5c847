package projector

// CodeInfo explains a kind of finding.
type CodeInfo struct {
	Code   Code
	Title  string // what is the matter, in a few words
	Remedy string // what to do about it
}

// The codes. CHY0 is about an object by itself, CHY1 about what it refers to,
// CHY2 about hosts and listeners, CHY3 about routes, CHY4 about services that
// every request passes.
const (
	CodeMalformed   Code = "CHY0001"
	CodeInvalid     Code = "CHY0002"
	CodeField       Code = "CHY0003"
	CodeRefused     Code = "CHY0004"
	CodeTooLarge    Code = "CHY0005"
	CodeInternal    Code = "CHY0006"
	CodeNoEffect    Code = "CHY0007"
	CodeNotServed   Code = "CHY0008"
	CodeLastGood    Code = "CHY0009"
	CodeHeld        Code = "CHY0010"
	CodeLimit       Code = "CHY0011"
	CodeDuplicate   Code = "CHY0012"
	CodeAnnotation  Code = "CHY0013"
	CodeNoService   Code = "CHY1001"
	CodeServiceName Code = "CHY1002"
	CodeNoSecret    Code = "CHY1003"
	CodeBadSecret   Code = "CHY1004"
	CodeNoContext   Code = "CHY1005"
	CodeNoResolver  Code = "CHY1006"
	CodeResolver    Code = "CHY1007"
	CodeNoPort      Code = "CHY1008"
	CodeNoHost      Code = "CHY2001"
	CodeNoListener  Code = "CHY2002"
	CodeSameHost    Code = "CHY2003"
	CodeHostTaken   Code = "CHY2004"
	CodeSamePort    Code = "CHY2005"
	CodeIdle        Code = "CHY2006"
	CodeHostTLS     Code = "CHY2007"
	CodeSelector    Code = "CHY2009"
	CodeHostname    Code = "CHY2010"
	CodeGroup       Code = "CHY3001"
	CodeWeights     Code = "CHY3002"
	CodeRedirect    Code = "CHY3003"
	CodeShadowed    Code = "CHY3004"
	CodeRegex       Code = "CHY3005"
	CodeSameRoute   Code = "CHY3006"
	CodeFailClosed  Code = "CHY4001"
	CodeProtection  Code = "CHY4002"
)

// Codes is the table of all kinds of finding, in order of code.
var Codes = []CodeInfo{
	{CodeMalformed, "the object cannot be read", "correct the document; chancery lint shows the place"},
	{CodeInvalid, "a field is invalid", "correct the field named by the path"},
	{CodeField, "a field is not as the schema has it", "correct or remove the field; it has no effect as it is"},
	{CodeRefused, "Envoy refused this version of the object", "correct what Envoy's message names"},
	{CodeTooLarge, "the object is too large to be recorded", "split the object"},
	{CodeInternal, "the compiler failed on this object", "report it with the object; the others are served"},
	{CodeNoEffect, "a field has no effect", "remove the field; Emissary ignores it as well"},
	{CodeNotServed, "this version does not serve this yet", "see the documentation for what is served"},
	{CodeLastGood, "the last good version is served in its place", "correct the object; the new version is served as soon as it is valid"},
	{CodeHeld, "a hold serves another version", "chancery hold release ends the hold"},
	{CodeLimit, "the object is above a limit", "split the object"},
	{CodeDuplicate, "two resources have one name", "remove or rename one of the two"},
	{CodeAnnotation, "an annotation's document is not a resource", "correct the document in the annotation"},
	{CodeNoService, "no such Service", "create the Service or correct the name"},
	{CodeServiceName, "a service name cannot be read", "write [scheme://]host[:port]"},
	{CodeNoSecret, "no such Secret", "create the Secret or correct the reference"},
	{CodeBadSecret, "a Secret cannot be used", "correct the Secret's tls.crt and tls.key"},
	{CodeNoContext, "no such TLSContext", "create the TLSContext or correct the name"},
	{CodeNoResolver, "no such resolver", "create the resolver or correct the name"},
	{CodeResolver, "the resolver cannot do this", "use a KubernetesEndpointResolver"},
	{CodeNoPort, "the Service has no such port", "correct the port in the service name"},
	{CodeNoHost, "no Host takes the Mapping", "give the Mapping a hostname that a Host covers, or the labels of a Host's mappingSelector"},
	{CodeNoListener, "no Listener takes the Host", "create a Listener whose hostBinding covers the Host"},
	{CodeSameHost, "two Hosts have one hostname", "merge the two Hosts"},
	{CodeHostTaken, "the hostname belongs to another cluster", "use another hostname, or make a HostClaim"},
	{CodeSamePort, "two Listeners have one port", "remove one of the two"},
	{CodeIdle, "the Listener has nothing to serve", "create a Host that its hostBinding covers"},
	{CodeHostTLS, "the Host's TLS settings cannot be used", "correct tlsSecret, tlsContext or tls"},
	{CodeSelector, "a selector is not supported", "use matchLabels"},
	{CodeHostname, "a hostname cannot be served", "use a name, *.suffix or *"},
	{CodeGroup, "the Mapping does not fit its group", "make the Mappings of one match agree, or give them different matches"},
	{CodeWeights, "the weights of a group do not add up", "keep the sum of the weights at 100 or below"},
	{CodeRedirect, "redirect and shadow settings conflict", "keep one of them"},
	{CodeShadowed, "the route can never be taken", "raise the precedence or change the match"},
	{CodeRegex, "a regular expression is invalid", "correct the expression; the syntax is RE2's"},
	{CodeSameRoute, "several Mappings share one match", "traffic is split between them; remove one if that is not meant"},
	{CodeFailClosed, "a broken service makes every request fail", "correct the service; requests are answered 500 until then"},
	{CodeProtection, "a protection of the cluster cannot be kept on a shared port", "give the clusters ports of their own, or the same AuthService and address lists"},
}
