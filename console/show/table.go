package show

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// Clean returns text from elsewhere as it may be printed on a terminal: on one
// line, with everything that is not graphic written as an escape.
func Clean(s string) string {
	if clean(s) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[0])
		case unicode.IsGraphic(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		s = s[n:]
	}
	return b.String()
}

func clean(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsGraphic(r) {
			return false
		}
	}
	return true
}

// Table is a table of text. Cells are cleaned as they are written.
type Table struct {
	Columns []Column
	Rows    [][]string // a cell for each column, wide ones included
}

// Column is a column of a table.
type Column struct {
	Name string
	Wide bool // shown in wide format only
}

// columns makes columns of names; those after "|" are wide.
func columns(names ...string) []Column {
	var out []Column
	wide := false
	for _, n := range names {
		if n == "|" {
			wide = true
			continue
		}
		out = append(out, Column{Name: n, Wide: wide})
	}
	return out
}

// maxCell bounds a cell of a table that is not wide, in columns of a terminal.
const maxCell = 96

// write appends the table to b.
func (t Table) write(b *strings.Builder, o Options) {
	var lines [][]string
	head := 0
	row := func(cells []string) {
		var line []string
		for i, c := range t.Columns {
			if c.Wide && o.Format != Wide {
				continue
			}
			cell := Clean(cells[i])
			if o.Format != Wide && columnsOf(cell) > maxCell {
				cell = cut(cell, maxCell-1) + "…"
			}
			if cell == "" {
				cell = "-"
			}
			line = append(line, cell)
		}
		lines = append(lines, line)
	}
	if !o.NoHeaders {
		names := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			names[i] = c.Name
		}
		row(names)
		head = 1
	}
	for _, r := range t.Rows {
		row(r)
	}
	var widths []int
	for _, line := range lines {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], columnsOf(cell))
		}
	}
	for n, line := range lines {
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-columnsOf(cell)+3)
			if n >= head {
				cell = o.colour(cell)
			}
			b.WriteString(cell)
			if i < len(line)-1 {
				b.WriteString(pad)
			}
		}
		b.WriteByte('\n')
	}
}

// runeColumns returns how many columns of a terminal a graphic rune takes.
func runeColumns(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case width.LookupRune(r).Kind() == width.EastAsianWide, width.LookupRune(r).Kind() == width.EastAsianFullwidth:
		return 2
	}
	return 1
}

func columnsOf(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

// cut returns the beginning of s that takes at most n columns.
func cut(s string, n int) string {
	for i, r := range s {
		if n -= runeColumns(r); n < 0 {
			return s[:i]
		}
	}
	return s
}

// colours are of words that stand alone in a cell; the word says it all.
var colours = map[string]string{
	"Serving": green, "accepted": green, "good": green, "served": green,
	"Applying": yellow, "Held": yellow, "held": yellow, "warning": yellow, "headed": yellow, "ready": yellow,
	"Behind": red, "Rejected": red, "Offline": red, "rejected": red, "refused": red, "error": red,
}

const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	plain  = "\x1b[0m"
)

func (o Options) colour(cell string) string {
	if c := colours[cell]; o.Colour && c != "" {
		return c + cell + plain
	}
	return cell
}
