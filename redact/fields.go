package redact

import (
	"bytes"
	"slices"
	"unicode"
	"unicode/utf8"
)

// class says what a member name means for its value.
type class uint8

const (
	harmless class = iota
	// doubtful names have secrets or settings under them: see resolve.
	doubtful
	secret
	// oneTime names hold so few possible values that even a keyed hash is
	// worth avoiding: never hashed (threats.md D5).
	oneTime
)

// passwordFields are the names of passwords: the plugin's list, Better Auth bodies,
// threats.md D3.
var passwordFields = []string{
	"password", "newPassword", "currentPassword", "oldPassword", "confirmPassword",
	"passwordConfirmation", "passwd", "pwd", "pass", "passphrase", "passwordHash",
	"passConfirm", "passConfirmation", "passUser", "pw", "pswd",
	// The same in other languages' forms.
	"passwort", "kennwort", "senha", "contraseña", "contrasena", "motDePasse", "wachtwoord", "lösenord", "losenord",
	"hasło", "haslo", "parola", "heslo", "salasana", "jelszó", "jelszo", "пароль", "密码", "密碼", "パスワード", "비밀번호",
	"passord", "adgangskode", "clave", "mdp", "şifre", "sifre", "passe",
}

// defaultFields are grouped by where the names come from. Plurals, trailing
// digits ("password2") and the rules below are not repeated here.
var defaultFields = append(slices.Clone(passwordFields),
	// Where a password is typed a second time.
	"confirm", "retype",
	// Tokens: Better Auth, RFC 6749, OpenID Connect, RFC 7636.
	"token", "accessToken", "refreshToken", "idToken", "sessionToken", "csrfToken",
	"xsrf", "csrf", "jwt", "jws", "jwe", "bearer", "verifier", "code_verifier", "code_challenge",
	"state", "nonce", "ticket", "magicLink", "oauthState",
	// A session id is a bearer secret in most frameworks; the OWASP Logging
	// Cheat Sheet lists it under "data to exclude".
	"sessionId", "session_state", "sid", "connect.sid", "PHPSESSID", "JSESSIONID", "sessid", "ASP.NET_SessionId",
	// Secrets and keys.
	"secret", "clientSecret", "clientAssertion", "apiKey", "key", "secretKey", "privateKey",
	"accessKey", "signingKey", "encryptionKey", "webhookSecret", "salt", "seed", "mnemonic",
	"privateJwk", "dsn", "connectionString",
	// Second factors.
	"otp", "totp", "hotp", "otc", "code", "pin", "passcode", "backupCode", "backupCodes",
	"recoveryCode", "recoveryCodes", "verificationCode", "userPin", "newPin", "oldPin", "currentPin", "cardPin", "mfaPin", "smsPin", "loginPin", "accountPin", "securityCode", "pinCode", "pinNumber", "mpin",
	"tan", "puk", "csc", "cvn",
	"totpURI", "otpauth", "qrCode", "securityAnswer", "secretAnswer", "answer",
	// Headers that turn up as members.
	"authorization", "proxyAuthorization", "auth", "cookie", "set-cookie", "x-api-key",
	"set-auth-token", "set-auth-jwt",
	// Signatures and what a passkey sends.
	"credential", "credentials", "signature", "sig", "hmac", "assertion", "SAMLResponse",
	"SAMLRequest", "RelayState", "clientDataJSON", "authenticatorData", "attestationObject",
	"userHandle", "challenge",
	// Payment and state identity numbers: OWASP Logging Cheat Sheet, PCI DSS 3.
	"ssn", "socialSecurityNumber", "creditCard", "creditCardNumber", "cardNumber", "pan",
	"cvv", "cvc", "iban", "bankAccount", "accountNumber", "routingNumber", "taxId",
	"nationalId", "passportNumber", "driversLicense",
)

// DefaultFields is a fresh copy of the field names that are secret unless
// Options.Fields replaces them. Matching ignores case, "_" and "-".
//
// With them come rules, so that nobody has to list every spelling:
// names that contain password, passwd, passphrase, secret, credential,
// privatekey or apikey; names that end in token, key, code, pass, pwd, pw, otp,
// cookie, signature, assertion, verifier or sessionid; names that begin with
// otp or totp; recovery phrases. Of names of several words ("confirmPin", "codeInput", "neues_passwort")
// whole words are judged, too, without those that say which or what of it (new, confirm,
// value, input, ...). Under names such as mfa and twoFactor only what looks like a code is
// secret. Words that merely end so (statusCode, countryCode, publicKey,
// cacheKey, compass, ...) are excepted.
func DefaultFields() []string { return slices.Clone(defaultFields) }

var (
	secretParts = [][]byte{
		[]byte("password"), []byte("passwd"), []byte("passphrase"), []byte("secret"),
		[]byte("credential"), []byte("privatekey"), []byte("apikey"), []byte("passwort"), []byte("kennwort"),
	}
	secretEndings = [][]byte{
		[]byte("token"), []byte("key"), []byte("code"), []byte("pwd"), []byte("otp"),
		[]byte("cookie"), []byte("signature"), []byte("assertion"), []byte("sessionid"),
		[]byte("pass"), []byte("verifier"), []byte("pw"), []byte("recoveryphrase"), []byte("seedphrase"), []byte("secretphrase"),
		[]byte("backupphrase"), []byte("walletphrase"), []byte("recoveryword"), []byte("seedword"), []byte("mnemonicword"),
	}
	// ordinaryEndings are the words that end like a secret and are none.
	ordinaryEndings = [][]byte{
		[]byte("statuscode"), []byte("errorcode"), []byte("countrycode"), []byte("postalcode"),
		[]byte("postcode"), []byte("zipcode"), []byte("languagecode"), []byte("localecode"),
		[]byte("currencycode"), []byte("regioncode"), []byte("reasoncode"), []byte("exitcode"),
		[]byte("responsecode"), []byte("httpcode"), []byte("dialcode"), []byte("callingcode"),
		[]byte("areacode"), []byte("barcode"), []byte("unicode"), []byte("encode"), []byte("decode"),
		[]byte("publickey"), []byte("primarykey"), []byte("foreignkey"), []byte("sortkey"),
		[]byte("cachekey"), []byte("idempotencykey"), []byte("translationkey"), []byte("hotkey"),
		[]byte("monkey"), []byte("compass"), []byte("bypass"), []byte("encompass"), []byte("trespass"),
		[]byte("surpass"), []byte("overpass"), []byte("underpass"),
	}
	// passwordParts, passwordEndings and passwordNames are the names of passwords among them.
	passwordParts   = [][]byte{[]byte("password"), []byte("passwd"), []byte("passphrase")}
	passwordEndings = [][]byte{[]byte("pass"), []byte("pwd"), []byte("pw")}
	passwordNames   = func() map[string]bool {
		names := make(map[string]bool)
		for _, name := range passwordFields {
			names[string(appendNormal(nil, []byte(name)))] = true
		}
		return names
	}()
	longestPasswordName = func() (longest int) {
		for name := range passwordNames {
			longest = max(longest, len(name))
		}
		return longest
	}()
	// oneTimeNames are the low-entropy names that no oneTime rule covers.
	oneTimeNames = map[string]bool{
		"pinnumber": true, "otc": true,
		"cvv": true, "cvc": true, "csc": true, "cvn": true, "tan": true, "puk": true, "ssn": true, "socialsecuritynumber": true,
	}
)

// Sensitive reports whether the value under key is secret by its name. The
// match ignores case, "_", "-" and other punctuation; of a compound name
// ("user[password]", "account.token") one secret part is enough.
func (r *Redactor) Sensitive(key string) bool {
	return r.classify([]byte(key)) >= secret
}

// NamesPassword reports whether what stands under key is a password by its name, whatever
// Options say. The match is that of Sensitive.
func NamesPassword(key string) bool {
	name := []byte(key)
	if isPassword(appendNormal(nil, name)) {
		return true
	}
	if bytes.IndexFunc(name, separatesNames) >= 0 {
		for part := range bytes.FieldsFuncSeq(name, separatesNames) {
			if isPassword(appendNormal(nil, part)) {
				return true
			}
		}
	}
	return passwordByWords(name)
}

// isPassword looks at one normalised name as match does.
func isPassword(name []byte) bool {
	for _, part := range passwordParts {
		if bytes.Contains(name, part) {
			return true
		}
	}
	for ; len(name) > 1; name = name[:len(name)-1] {
		if len(name) <= longestPasswordName && passwordNames[string(name)] || endsIn(name, passwordEndings) && !endsIn(name, ordinaryEndings) {
			return true
		}
		if last := name[len(name)-1]; last != 's' && !isDigit(last) {
			return false
		}
	}
	return false
}

// classify looks at the whole name, then at the parts of a compound one, then at its words.
func (r *Redactor) classify(key []byte) class {
	var room [96]byte
	found := r.match(appendNormal(room[:0], key))
	if found != oneTime && bytes.IndexFunc(key, separatesNames) >= 0 {
		for part := range bytes.FieldsFuncSeq(key, separatesNames) {
			found = max(found, r.match(appendNormal(room[:0], part)))
		}
	}
	if found < secret && r.rules {
		found = max(found, r.byWords(key))
	}
	return found
}

// match classifies one normalised name: as it is, without trailing digits
// ("password2"), without a plural s. It is linear: names come from clients, too.
func (r *Redactor) match(name []byte) class {
	anywhere := r.rules && ruledAnywhere(name)
	for {
		if len(name) <= r.longest {
			if c, ok := r.names[string(name)]; ok {
				return c
			}
		}
		if anywhere || r.rules && len(name) >= 3 && endsIn(name, secretEndings) && !endsIn(name, ordinaryEndings) {
			return nameClass(name)
		}
		last := len(name) - 1
		if last < 1 || (name[last] != 's' && !isDigit(name[last])) {
			return harmless
		}
		name = name[:last]
	}
}

// ruledAnywhere applies those of the rules that DefaultFields documents that are not about
// the end of a name.
func ruledAnywhere(name []byte) bool {
	for _, p := range secretParts {
		if bytes.Contains(name, p) {
			return true
		}
	}
	return bytes.HasPrefix(name, []byte("otp")) || bytes.HasPrefix(name, []byte("totp"))
}

// nameClass tells the two kinds of secret names apart.
func nameClass(name []byte) class {
	for len(name) > 1 && (name[len(name)-1] == 's' || isDigit(name[len(name)-1])) {
		name = name[:len(name)-1]
	}
	low := oneTimeNames[string(name)] || bytes.HasPrefix(name, []byte("otp")) ||
		bytes.HasPrefix(name, []byte("totp")) || bytes.HasSuffix(name, []byte("otp")) ||
		bytes.HasSuffix(name, []byte("code")) || bytes.HasSuffix(name, []byte("pin"))
	if low {
		return oneTime
	}
	return secret
}

func endsIn(name []byte, endings [][]byte) bool {
	last := name[len(name)-1]
	for _, e := range endings {
		if e[len(e)-1] == last && bytes.HasSuffix(name, e) {
			return true
		}
	}
	return false
}

// appendNormal appends the letters and digits of key in lower case. What is
// dropped includes U+FFFD, so that a name means the same before and after
// its NULs and broken bytes were replaced.
func appendNormal(dst, key []byte) []byte {
	for i, c := range key {
		switch {
		case c >= utf8.RuneSelf:
			for _, v := range string(key[i:]) {
				if unicode.IsLetter(v) || unicode.IsDigit(v) {
					dst = utf8.AppendRune(dst, unicode.ToLower(v))
				}
			}
			return dst
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c|0x20)
		case 'a' <= c && c <= 'z', isDigit(c):
			dst = append(dst, c)
		}
	}
	return dst
}

// separatesNames is true between the parts of "user[password]" or "a.token",
// not inside "set-cookie" or "api_key".
func separatesNames(v rune) bool {
	return v < utf8.RuneSelf && v != '_' && v != '-' && !isWordByte(byte(v))
}

// isIDKey reports whether a name says that its value identifies something:
// "id", "userId", "organization_id", "memberIds".
func isIDKey(key []byte) bool {
	n := len(key)
	if n > 0 && key[n-1]|0x20 == 's' {
		n--
	}
	return n >= 2 && key[n-2]|0x20 == 'i' && key[n-1]|0x20 == 'd'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isWordByte is true for ASCII letters and digits.
func isWordByte(c byte) bool {
	return isDigit(c) || ('a' <= c|0x20 && c|0x20 <= 'z')
}
