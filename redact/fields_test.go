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

// TestWordsOfCompoundNames: whole words are judged, without those that say which or what of it.
func TestWordsOfCompoundNames(t *testing.T) {
	r := must(t, Options{})
	for _, name := range strings.Fields(`confirmPin repeatPin pin_confirmation pinConfirm walletPin pin_repeat pinValue userPIN PINCode new-pin-2 pins user[pinValue]
		neues_passwort passwort_neu neuesPasswort neuespasswort nova_senha senhaAtual nueva_contraseña contraseñaNueva nouveau_mot_de_passe mot_de_passe_nouveau
		nieuw_wachtwoord passe palavra_passe NOVÁ_HESLO новый_пароль 新しいパスワード 新密码 nueva_clave
		recovery_phrase recoveryPhrase seedPhrase mnemonicPhrase recoveryWords seed_words recovery_words secretPhrase mnemonic_text
		tan sms_tan puk simPuk csc cardCvc card_cvn cvv2 codeInput code_value digit1 digit6 digit_2 otp_digit_1 code_digit3 recoveryCodeInput tokenValue token_hash
		backup_code_field otpInput secret_answer_text`) {
		if !r.Sensitive(name) {
			t.Errorf("%s is not sensitive", name)
		}
	}
	for _, name := range strings.Fields(`pinned isPinned pinnedMessages tank tankSize stance mfaEnabled twoFactorEnabled two_factor_enabled mfaMethod country_code statusCode
		zip_code zipCodeInput country_code_value statusCodeText error_code_value digits digitCount puke hasPin pinEnabled is_pin requirePin pinLength codec codename
		tanned spinner opinion shopping cvcLength display_name newEmail confirmEmail emailConfirmation inputValue text_input new_value oldName field repeat
		pinterestUrl passenger_name compassValue monkey_input phrase keywords seedCount`) {
		if r.Sensitive(name) {
			t.Errorf("%s is sensitive", name)
		}
	}
	for _, name := range strings.Fields("neues_passwort nova_senha mot_de_passe_nouveau 新密码") {
		if !NamesPassword(name) {
			t.Errorf("%s is no password", name)
		}
	}
	if own := must(t, Options{Fields: []string{"x"}}); own.Sensitive("confirmPin") || own.Sensitive("nova_senha") {
		t.Error("names replace the rules, too")
	}
}

// TestSecondFactorsAndTheirSettings: under one name are codes and what is set.
func TestSecondFactorsAndTheirSettings(t *testing.T) {
	r := must(t, Options{})
	for _, value := range []string{`"493021"`, `493021`, `"abcd-efgh"`, `["493021"]`} {
		for _, name := range []string{"mfa", "2fa", "tfa", "twoFactor", "two_factor", "secondFactor", "SMS_MFA", "2fa_input", "mfaValue"} {
			if got, err := r.JSON([]byte(`{"` + name + `":` + value + `}`)); err != nil || string(got) != `{"`+name+`":"[REDACTED]"}` {
				t.Errorf("%s of %s: %s, %v", value, name, got, err)
			}
		}
	}
	for _, body := range []string{
		`{"mfa":true,"2fa":null,"twoFactor":{"enabled":true,"method":"totp"},"tfa":1,"mfaEnabled":true,"secondFactor":"TOTP","two_factor":["sms","totp"],"require_mfa":"always"}`,
	} {
		if got, err := r.JSON([]byte(body)); err != nil || string(got) != body {
			t.Errorf("%s became %s, %v", body, got, err)
		}
	}
	if got, err := r.JSON([]byte(`{"twoFactor":{"code":"493021"}}`)); err != nil || string(got) != `{"twoFactor":{"code":"[REDACTED]"}}` {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := r.Form([]byte("mfa=493021&2fa=on&tfa=sms&tfa=493021")); err != nil || string(got) != `{"mfa":"[REDACTED]","2fa":"on","tfa":"[REDACTED]"}` {
		t.Errorf("%s, %v", got, err)
	}
	if got := r.Query("mfa=493021&2fa=true&confirmPin=1"); got != "mfa=[REDACTED]&2fa=true&confirmPin=[REDACTED]" {
		t.Error(got)
	}
	if got := r.Text("2FA: wrong code, mfa: required, mfa: 493021, confirmPin: 1234"); got != "2FA: wrong code, mfa: required, mfa: [REDACTED] confirmPin: [REDACTED]" {
		t.Error(got)
	}
}
