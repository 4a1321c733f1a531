package hosttest

import (
	"errors"
	"fmt"
	"strings"
)

// command is one command of a script.
type command struct {
	join       string // what stands before it: "&&", "||" or ""
	words      []word
	to         *word // where standard output goes; nil: nowhere else
	appending  bool
	background bool
}

// word is a word as parts of text and variables.
type word []part

type part struct {
	text     string
	variable bool
}

// lexer reads a script.
type lexer struct {
	text string
	at   int
}

// parse cuts a script into commands.
func parse(text string) ([]command, error) {
	l := &lexer{text: text}
	var all []command
	current := command{}
	end := func(join string) {
		if len(current.words) > 0 || current.to != nil {
			all = append(all, current)
		}
		current = command{join: join}
	}
	for {
		tok, w, err := l.next()
		if err != nil {
			return nil, err
		}
		switch tok {
		case "":
			end("")
			return all, nil
		case "word":
			current.words = append(current.words, w)
		case ";":
			end("")
		case "&":
			current.background = true
			end("")
		case "&&", "||":
			end(tok)
		case ">", ">>":
			next, target, err := l.next()
			if err != nil || next != "word" {
				return nil, errors.Join(errors.New("a redirection without a target"), err)
			}
			current.to, current.appending = &target, tok == ">>"
		default:
			return nil, fmt.Errorf("%q is not understood", tok)
		}
	}
}

// next returns the next token: "word" with its word, an operator, or "" at the
// end.
func (l *lexer) next() (string, word, error) {
	for l.at < len(l.text) && strings.ContainsRune(" \t\r", rune(l.text[l.at])) {
		l.at++
	}
	if l.at == len(l.text) {
		return "", nil, nil
	}
	rest := l.text[l.at:]
	if rest[0] == '#' {
		l.at += len(strings.SplitN(rest, "\n", 2)[0])
		return l.next()
	}
	if rest[0] == '\n' {
		l.at++
		return ";", nil, nil
	}
	for _, op := range []string{"&&", "||", ">>", ">", ";", "|", "<", "(", ")", "`"} {
		if strings.HasPrefix(rest, op) {
			l.at += len(op)
			return op, nil, nil
		}
	}
	if rest[0] == '&' && !strings.HasPrefix(rest, "&2") {
		l.at++
		return "&", nil, nil
	}
	w, err := l.word()
	return "word", w, err
}

// word reads a word.
func (l *lexer) word() (word, error) {
	var w word
	add := func(text string) { w = append(w, part{text: text}) }
	if strings.HasPrefix(l.text[l.at:], "&2") {
		l.at += 2
		return word{{text: "&2"}}, nil
	}
	for l.at < len(l.text) {
		c := l.text[l.at]
		switch {
		case strings.IndexByte(" \t\r\n;&|<>()`", c) >= 0:
			return w, nil
		case c == '\'':
			end := strings.IndexByte(l.text[l.at+1:], '\'')
			if end < 0 {
				return nil, errors.New("unterminated quote")
			}
			add(l.text[l.at+1 : l.at+1+end])
			l.at += end + 2
		case c == '"':
			l.at++
			quoted, err := l.quoted()
			if err != nil {
				return nil, err
			}
			w = append(append(w, part{}), quoted...)
		case c == '\\' && l.at+1 < len(l.text):
			if l.text[l.at+1] != '\n' {
				add(l.text[l.at+1 : l.at+2])
			}
			l.at += 2
		case c == '$':
			w = append(w, l.variable())
		default:
			add(string(c))
			l.at++
		}
	}
	return w, nil
}

// quoted reads to the closing double quote.
func (l *lexer) quoted() (word, error) {
	var w word
	for l.at < len(l.text) {
		switch c := l.text[l.at]; {
		case c == '"':
			l.at++
			return w, nil
		case c == '$':
			w = append(w, l.variable())
		case c == '\\' && l.at+1 < len(l.text) && strings.IndexByte("\"\\$`", l.text[l.at+1]) >= 0:
			w = append(w, part{text: l.text[l.at+1 : l.at+2]})
			l.at += 2
		default:
			w = append(w, part{text: string(c)})
			l.at++
		}
	}
	return nil, errors.New("unterminated quote")
}

// variable reads $NAME, ${NAME}, $? or $$; anything else is a dollar sign.
func (l *lexer) variable() part {
	rest := l.text[l.at+1:]
	if strings.HasPrefix(rest, "{") {
		if end := strings.IndexByte(rest, '}'); end > 0 {
			l.at += end + 2
			return part{text: rest[1:end], variable: true}
		}
	}
	if rest != "" && (rest[0] == '?' || rest[0] == '$') {
		l.at += 2
		return part{text: rest[:1], variable: true}
	}
	n := 0
	for n < len(rest) && (rest[n] == '_' || rest[n] >= '0' && rest[n] <= '9' || rest[n]|0x20 >= 'a' && rest[n]|0x20 <= 'z') {
		n++
	}
	l.at += n + 1
	if n == 0 {
		return part{text: "$"}
	}
	return part{text: rest[:n], variable: true}
}
