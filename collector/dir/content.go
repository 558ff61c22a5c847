package dir

import (
	"fmt"

	"github.com/chancery-dev/chancery/collector"
	"github.com/chancery-dev/chancery/ledger"
)

// Parse reads the content of one file, such as one that came by a pipe, as Read
// reads a file of the directory.
func Parse(where string, content []byte) Contents {
	objects, problems := parse(where, "", content, everything)
	c := Contents{Objects: objects, Report: collector.Report{}}
	for _, p := range problems {
		at := where
		if p.document > 0 {
			at = fmt.Sprintf("%s, document %d", where, p.document)
		}
		c.Report.Findings = append(c.Report.Findings, ledger.SiteFinding{Where: at, Message: p.text})
	}
	return c
}
