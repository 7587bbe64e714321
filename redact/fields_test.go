package redact

import (
	"strings"
	"testing"
)

// sensitiveWords times five spellings is the corpus of threats.md D3.
const sensitiveWords = `password new_password current_password old_password confirm_password password_confirmation passwd
user_passwd pwd db_pwd pass passphrase token access_token refresh_token id_token session_token csrf_token reset_token verify_tokens
secret client_secret app_secrets api_key api_keys key secret_key private_key signing_key encryption_key access_key webhook_secret
otp email_otp totp otp_value code codes pin new_pin pins passcode backup_code backup_codes recovery_codes verification_code device_code
user_code totp_uri qr_code authorization proxy_authorization cookie set_cookie session_cookies x_api_key x_auth_token set_auth_token
credential credentials signature x_hub_signature assertion client_assertion code_verifier code_challenge state nonce session_id sid
ssn credit_card card_number cvv cvc iban security_answer saml_response client_data_json challenge jwt auth password_2 new_pass old_pass user_pass login_pass pass_confirm pw pswd passwort senha contraseña pin_number mpin answer sessid
login_verifier consent_verifier`

func spellings(word string) []string {
	parts := strings.Split(word, "_")
	camel := parts[0]
	for _, p := range parts[1:] {
		camel += strings.ToUpper(p[:1]) + p[1:]
	}
	return []string{word, strings.ReplaceAll(word, "_", "-"), strings.ToUpper(word), camel, "user[" + word + "]", "x." + camel}
}

func TestEverySpellingIsSensitive(t *testing.T) {
	r := must(t, Options{})
	seen := map[string]bool{}
	for _, word := range append(strings.Fields(sensitiveWords), DefaultFields()...) {
		for _, s := range spellings(word) {
			seen[s] = true
			if !r.Sensitive(s) {
				t.Errorf("%s is not sensitive", s)
			}
		}
	}
	if len(seen) < 200 {
		t.Errorf("the corpus has %d spellings", len(seen))
	}
}

func TestOrdinaryNamesAreNotSensitive(t *testing.T) {
	r := must(t, Options{})
	for _, s := range strings.Fields(`email name userId id organizationId statusCode countryCode zip_code public_key
	clavecin mdpi monkey keyboard tokenType provider error callbackURL rememberMe image createdAt _ 1 encode unicode mapping shipping __proto__ role
	compass bypass passenger passport pass_through pwa answered`) {
		if r.Sensitive(s) {
			t.Errorf("%s is sensitive", s)
		}
	}
}

func TestNamesOfPasswords(t *testing.T) {
	for _, name := range strings.Fields("password new_password user[pw] passConfirm pswd password2 smtpPass PASSWORT senha contraseña user.пароль şifre clave mdp") {
		if !NamesPassword(name) {
			t.Errorf("%s is no password", name)
		}
	}
	for _, name := range strings.Fields("token otp secret confirm compass bypass passenger clavecin 1 _ email") {
		if NamesPassword(name) {
			t.Errorf("%s is a password", name)
		}
	}
}
