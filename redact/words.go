package redact

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// wordKind says what a word in a compound name means for the whole of it.
type wordKind uint8

const (
	otherWord wordKind = iota
	// asideWord says which or what of it: "confirmPin", "pin_value", "neues_passwort".
	asideWord
	// askingWord, in front, makes a name say whether, not which: "isPin", "require_mfa".
	askingWord
	// secretWord makes the name secret wherever it stands.
	secretWord
	// codeWord is a one-time secret where no other words but those aside follow.
	codeWord
	// factorWord is one, too, if the value looks like it.
	factorWord
	// placeWord is one where a number follows: "digit1".
	placeWord
)

// wordKinds are the words that matter, in lower case.
var wordKinds = func() map[string]wordKind {
	kinds := make(map[string]wordKind)
	for kind, words := range map[wordKind][]string{
		asideWord: {
			"input", "value", "val", "field", "text", "txt", "raw", "plain", "string", "hash", "confirm", "confirmation", "confirmed", "repeat", "repeated",
			"retype", "again", "verify", "new", "old", "current", "entered", "typed",
			"neu", "neue", "neues", "alt", "alte", "altes", "nueva", "nuevo", "nova", "novo", "actual", "atual", "nouveau", "actuel", "nieuw", "nieuwe",
		},
		askingWord: {"is", "has", "no", "with", "require", "requires", "required", "needs", "enable", "allow", "use", "uses", "show", "hide", "skip"},
		secretWord: append(foreignPasswords, "passe", "pwd", "mnemonic"),
		codeWord:   {"pin", "tan", "puk", "csc", "cvc", "cvn", "cvv", "otc", "clave"},
		factorWord: {"mfa", "tfa"},
		placeWord:  {"digit"},
	} {
		for _, w := range words {
			kinds[w] = kind
		}
	}
	return kinds
}()

// foreignPasswords are words for a password that mean nothing else.
var foreignPasswords = []string{
	"passwort", "kennwort", "senha", "contraseña", "contrasena", "wachtwoord", "lösenord", "losenord", "hasło", "haslo", "parola",
	"heslo", "salasana", "jelszó", "jelszo", "пароль", "passord", "adgangskode", "mdp", "şifre", "sifre",
}

// unspacedPasswords are such words in scripts that put nothing between words.
var unspacedPasswords = [][]byte{[]byte("密码"), []byte("密碼"), []byte("パスワード"), []byte("비밀번호")}

// doubtfulFields are names of second factors under which servers and forms have settings, too:
// {"mfa":true}, {"mfa":"totp"}, {"mfa":"493021"}.
var doubtfulFields = []string{"mfa", "2fa", "tfa", "twoFa", "twoFactor", "secondFactor", "2ndFactor"}

// longestWord is that of wordKinds, in bytes.
var longestWord = func() (longest int) {
	for w := range wordKinds {
		longest = max(longest, len(w))
	}
	return longest
}()

// nameWords is what the words of a compound name say, as camelCase, "_", "-", other punctuation and
// digits part it.
type nameWords struct {
	bare  int   // how long the normalised name is without the words aside at its end
	ends  class // what the words so far make of the name, if only words aside follow
	place bool  // the last word that is no number was a placeWord
	asks  bool  // an askingWord came first
	any   bool  // a secretWord was there
}

// readWords reads a whole name and appends it to text, normalised. It is linear, and looks each word up
// once.
func readWords(text, name []byte) (nameWords, []byte) {
	var n nameWords
	var last rune // the character before, 0 where a word begins
	start := 0
	for i := 0; i < len(name); {
		v, size := rune(name[i]), 1
		if v >= utf8.RuneSelf {
			v, size = utf8.DecodeRune(name[i:])
		}
		i += size
		number, upper := v < utf8.RuneSelf && isDigit(byte(v)), isUpper(v)
		if !number && !letter(v) {
			n.end(text, start)
			start, last = len(text), 0
			continue
		}
		follows := i < len(name) && 'a' <= name[i] && name[i] <= 'z' // "PINCode"
		if last != 0 && (number != (last < utf8.RuneSelf && isDigit(byte(last))) || upper && (follows || !isUpper(last))) {
			n.end(text, start)
			start = len(text)
		}
		switch last = v; {
		case v >= utf8.RuneSelf:
			text = utf8.AppendRune(text, unicode.ToLower(v))
		case upper:
			text = append(text, byte(v)|0x20)
		default:
			text = append(text, byte(v))
		}
	}
	n.end(text, start)
	return n, text
}

// end judges the word that begins at start and ends with text.
func (n *nameWords) end(text []byte, start int) {
	word := text[start:]
	if len(word) == 0 {
		return
	}
	if isDigit(word[0]) {
		if n.place && len(word) <= 2 {
			n.ends = oneTime
		}
		return
	}
	kind := kindOf(word)
	if kind == asideWord {
		return
	}
	n.bare, n.ends, n.place = len(text), harmless, kind == placeWord
	switch {
	case kind == askingWord && start == 0:
		n.asks = true
	case kind == secretWord:
		n.any = true
	case kind == codeWord && !n.asks:
		n.ends = oneTime
	case kind == factorWord && !n.asks:
		n.ends = doubtful
	}
}

// compound says whether a name has more than one word. Those of one are judged by match.
func compound(name []byte) bool {
	for i, c := range name {
		if (c < 'a' || c > 'z') && (i > 0 || c < 'A' || c > 'Z') {
			return true
		}
	}
	return false
}

func letter(v rune) bool {
	if v < utf8.RuneSelf {
		return 'a' <= v|0x20 && v|0x20 <= 'z'
	}
	return unicode.IsLetter(v)
}

func isUpper(v rune) bool {
	if v < utf8.RuneSelf {
		return 'A' <= v && v <= 'Z'
	}
	return unicode.IsUpper(v)
}

// kindOf looks a word up, also without a plural s.
func kindOf(word []byte) wordKind {
	if len(word) > longestWord+1 || len(word) < 2 {
		return otherWord
	}
	kind := wordKinds[string(word)]
	if last := len(word) - 1; kind == otherWord && word[last] == 's' && last > 2 {
		if kind = wordKinds[string(word[:last])]; kind == placeWord {
			return otherWord // "digits" says how many
		}
	}
	return kind
}

// byWords classifies a name by its words: what none of the other rules finds.
func (r *Redactor) byWords(name []byte) class {
	if !compound(name) {
		return harmless
	}
	var room [96]byte
	n, text := readWords(room[:0], name)
	switch {
	case n.any || unspaced(text):
		return secret
	case n.ends != harmless:
		return n.ends
	case n.bare > 0 && n.bare < len(text):
		return r.match(text[:n.bare])
	}
	return harmless
}

// passwordByWords says whether one of the words of a name is a password in some language.
func passwordByWords(name []byte) bool {
	if !compound(name) {
		return false
	}
	var room [96]byte
	n, text := readWords(room[:0], name)
	return n.any && !bytes.Contains(text, []byte("mnemonic")) || unspaced(text)
}

func unspaced(name []byte) bool {
	for i, c := range name {
		if c < utf8.RuneSelf {
			continue
		}
		for _, word := range unspacedPasswords {
			if bytes.Contains(name[i:], word) {
				return true
			}
		}
		return false
	}
	return false
}

// settings are what a second factor is set to, and which there are.
var settings = map[string]bool{
	"true": true, "false": true, "on": true, "off": true, "yes": true, "no": true, "none": true, "null": true, "any": true, "all": true,
	"enabled": true, "disabled": true, "enforced": true, "required": true, "optional": true, "always": true, "never": true,
	"active": true, "inactive": true, "pending": true, "verified": true, "unverified": true, "default": true, "preferred": true,
	"sms": true, "email": true, "mail": true, "phone": true, "voice": true, "call": true, "push": true, "app": true, "authenticator": true,
	"totp": true, "hotp": true, "otp": true, "webauthn": true, "passkey": true, "u2f": true, "fido2": true, "backup": true, "recovery": true,
}

// resolve makes of a doubtful class what the value under the name shows: raw is its JSON.
func (c class) resolve(raw []byte) class {
	if c != doubtful {
		return c
	}
	switch {
	case raw[0] == '"' && looksCode(plainText(raw)), raw[0] != '{' && raw[0] != '"' && hasDigits(raw):
		return oneTime
	}
	return harmless
}

// looksCode says whether a text under a doubtful name is no setting.
func looksCode(s string) bool {
	return len(s) > 3 && len(s) <= maxKeyBytes && !settings[string(bytes.ToLower([]byte(s)))]
}

// hasDigits says whether a number or a list has four digits in a row.
func hasDigits(raw []byte) bool {
	run := 0
	for _, c := range raw {
		if run++; !isDigit(c) {
			run = 0
		}
		if run == 4 {
			return true
		}
	}
	return false
}
