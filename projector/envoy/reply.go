package envoy

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	xdscorev3 "github.com/cncf/xds/go/xds/core/v3"
	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	customresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/custom_response/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	localresponsev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/custom_response/local_response_policy/v3"
	typematcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/chancery-dev/chancery/projector/ir"
)

// replyRuntimeKey is a key that Envoy wants beside a status; nothing sets it.
const replyRuntimeKey = "chancery.local_reply_status"

// localReplies replaces the proxy's own replies on a whole chain.
func localReplies(rs []ir.LocalReply) (*hcmv3.LocalReplyConfig, error) {
	if len(rs) == 0 {
		return nil, nil
	}
	out := &hcmv3.LocalReplyConfig{}
	for _, r := range rs {
		format, err := replyFormat(r)
		if err != nil {
			return nil, err
		}
		out.Mappers = append(out.Mappers, &hcmv3.ResponseMapper{
			Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
				StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
					Op:    accesslogv3.ComparisonFilter_EQ,
					Value: &corev3.RuntimeUInt32{DefaultValue: r.Status, RuntimeKey: replyRuntimeKey},
				}},
			}},
			BodyFormatOverride: format,
		})
	}
	return out, nil
}

// replyMatcher replaces replies on one route, or on a chain whose routes have
// their own. Envoy has no such thing for its own replies alone: replies of the
// upstream with the status are replaced too.
func replyMatcher(rs []ir.LocalReply) (*customresponsev3.CustomResponse, error) {
	byStatus := map[string]*xdsmatcherv3.Matcher_OnMatch{}
	for _, r := range rs {
		format, err := replyFormat(r)
		if err != nil {
			return nil, err
		}
		policy, err := packAny(&localresponsev3.LocalResponsePolicy{BodyFormat: format})
		if err != nil {
			return nil, err
		}
		status := strconv.Itoa(int(r.Status))
		if byStatus[status] != nil {
			return nil, fmt.Errorf("status %s is replaced twice", status)
		}
		byStatus[status] = &xdsmatcherv3.Matcher_OnMatch{OnMatch: &xdsmatcherv3.Matcher_OnMatch_Action{
			Action: &xdscorev3.TypedExtensionConfig{Name: "local-response", TypedConfig: policy},
		}}
	}
	input, err := packAny(&typematcherv3.HttpResponseStatusCodeMatchInput{})
	if err != nil {
		return nil, err
	}
	return &customresponsev3.CustomResponse{CustomResponseMatcher: &xdsmatcherv3.Matcher{
		MatcherType: &xdsmatcherv3.Matcher_MatcherTree_{MatcherTree: &xdsmatcherv3.Matcher_MatcherTree{
			Input: &xdscorev3.TypedExtensionConfig{Name: "status", TypedConfig: input},
			TreeType: &xdsmatcherv3.Matcher_MatcherTree_ExactMatchMap{
				ExactMatchMap: &xdsmatcherv3.Matcher_MatcherTree_MatchMap{Map: byStatus},
			},
		}},
	}}, nil
}

// replyFormat writes the body, in which %…% are command operators.
func replyFormat(r ir.LocalReply) (*corev3.SubstitutionFormatString, error) {
	f := &corev3.SubstitutionFormatString{ContentType: r.ContentType}
	switch {
	case r.JSON != nil && r.Body != "":
		return nil, fmt.Errorf("the reply to status %d is both text and JSON; choose one", r.Status)
	case r.JSON != nil:
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for _, k := range slices.Sorted(maps.Keys(r.JSON)) {
			s.Fields[k] = structpb.NewStringValue(r.JSON[k])
		}
		f.Format = &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: s}
	default:
		f.Format = &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: inline(r.Body)}
	}
	return f, nil
}
